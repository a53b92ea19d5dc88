package sequence

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// reasons feeds knocks to a machine as completions does, and says why of each.
func reasons(t testing.TB, s Spec, knocks string) string {
	t.Helper()
	set, err := NewSet([]Spec{s}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := set.Machines()[0]
	names := []string{"no step", "passed over", "started over", "wrong order", "late (window)", "late", "repeats", "reaches", "completes"}
	var state State
	var now time.Duration
	var all []string
	for _, c := range knocks {
		switch c {
		case ' ':
			now += second
			continue
		case '.':
			now += 10 * second
			continue
		}
		steps, _ := set.Match(Request{Path: "/" + string(c)}, nil).Steps(m)
		w := m.Why(state, steps, now)
		text := fmt.Sprint(names[w.Reason])
		switch w.Reason {
		case WrongOrder:
			text += fmt.Sprint(" ", w.Step, " for ", w.Awaited)
		case StartedOver, PassedOver:
			text += fmt.Sprint(" at ", w.Awaited-1)
		case LateWindow, LateWithin:
			text += fmt.Sprint(" ", w.Step, " by ", w.Late)
		case Reaches, Repeats, Completes:
			text += fmt.Sprint(" ", w.Step)
		}
		all = append(all, text)
		state, _ = m.Advance(state, steps, now)
	}
	return strings.Join(all, ", ")
}

func TestWhyAKnockDidWhatItDid(t *testing.T) {
	loose := func(s *Spec) { s.Strict = false }
	for _, tt := range []struct {
		spec   Spec
		knocks string
		want   string
	}{
		{spec("abc"), "abc", "reaches 1, reaches 2, completes 3"},
		{spec("abc"), "cxb", "wrong order 3 for 1, no step, wrong order 2 for 1"},
		{spec("abc"), "ac", "reaches 1, wrong order 3 for 2"},
		{spec("abc"), "ab b", "reaches 1, reaches 2, repeats 2"},
		{spec("abc"), "a a", "reaches 1, reaches 1"},
		{spec("abc"), "aba", "reaches 1, reaches 2, reaches 1"},
		{spec("abc"), "abx", "reaches 1, reaches 2, started over at 2"},
		{with(spec("abc"), loose), "abxc", "reaches 1, reaches 2, passed over at 2, completes 3"},
		{spec("abc"), "a.   b", "reaches 1, late 2 by 3s"},
		{spec("abc"), "a.   x", "reaches 1, no step"},
		{spec("abc"), "a.   bc", "reaches 1, late 2 by 3s, wrong order 3 for 1"},
		{with(spec("abc"), func(s *Spec) { s.Window = 12 * second }), "a     b         c", "reaches 1, reaches 2, late (window) 3 by 2s"},
		{with(spec("abc"), func(s *Spec) { s.Window = 30 * second }), "ab.  c", "reaches 1, reaches 2, late 3 by 2s"},
		{spec("aab"), "a a b", "reaches 1, reaches 2, completes 3"},
		{spec("aab"), "a.  a", "reaches 1, reaches 1"},
	} {
		if got := reasons(t, tt.spec, tt.knocks); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.knocks, got, tt.want)
		}
	}
}

// What is said is what happens.
func TestWhySaysWhatAdvanceDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := spec(rapid.StringMatching("[ab]{1,4}").Draw(t, "steps"))
		s.Strict = rapid.Bool().Draw(t, "strict")
		s.Window = time.Duration(rapid.IntRange(0, 20).Draw(t, "window")) * second
		m, err := NewMachine(s)
		if err != nil {
			t.Fatal(err)
		}
		set, _ := NewSet([]Spec{s}, nil)
		var state State
		var now time.Duration
		for range rapid.IntRange(1, 8).Draw(t, "knocks") {
			now += time.Duration(rapid.IntRange(0, 15).Draw(t, "after")) * second
			path := rapid.SampledFrom([]string{"/a", "/b", "/x"}).Draw(t, "path")
			steps, _ := set.Match(Request{Path: path}, nil).Steps(set.Machines()[0])
			why := m.Why(state, steps, now)
			next, complete := m.Advance(state, steps, now)
			stands := why.Reason == Reaches || why.Reason == Repeats
			if complete != (why.Reason == Completes) || stands != (steps != 0 && next.Step() > 0) || stands && why.Step != next.Step() {
				t.Fatalf("%+v, but step %d, complete %v", why, next.Step(), complete)
			}
			late := why.Reason == LateWithin || why.Reason == LateWindow
			if late != (why.Late > 0) || late && steps&(1<<(why.Step-1)) == 0 {
				t.Fatalf("%+v of steps %b", why, steps)
			}
			state = next
		}
	})
}

func TestWhichConditionIsNotMet(t *testing.T) {
	s := spec("ab")
	s.Steps[0].Conditions = Conditions{Method: "POST", Scheme: HTTPS, Host: "h", Query: map[string]string{"k": "v"}}
	s.Steps[1].Trigger = Template("/a/{totp}")
	s.Steps[1].Conditions = Conditions{Scheme: HTTPS}
	set, err := NewSet([]Spec{s}, nil)
	if err != nil {
		t.Fatal(err)
	}
	right := Request{Method: "POST", Scheme: HTTPS, Host: "H:443", Path: "/a", RawQuery: "k=v"}
	for _, tt := range []struct {
		change func(*Request)
		want   string
	}{
		{func(r *Request) {}, "[]"},
		{func(r *Request) { r.Method = "GET" }, "[1 of method]"},
		{func(r *Request) { r.Scheme = HTTP }, "[1 of scheme]"},
		{func(r *Request) { r.Host = "other" }, "[1 of host]"},
		{func(r *Request) { r.RawQuery = "" }, "[1 of query]"},
		{func(r *Request) { r.Path, r.Scheme = "/a/123456", HTTP }, "[2 of scheme]"},
		{func(r *Request) { r.Path = "/other" }, "[]"},
	} {
		r := right
		tt.change(&r)
		all := []string{}
		for _, u := range set.Unmet(r) {
			all = append(all, fmt.Sprint(u.Step, " of ", []string{"", "method", "scheme", "host", "query"}[u.Condition]))
		}
		if got := fmt.Sprint(all); got != tt.want {
			t.Errorf("%+v: %s, want %s", r, got, tt.want)
		}
	}
}
