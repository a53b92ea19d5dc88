package sequence

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = time.Second

// spec builds a sequence over one-letter paths: "abc" is /a, /b, /c, each step
// within ten seconds of the one before.
func spec(paths string) Spec {
	s := Spec{Name: "test", Strict: true}
	for i, c := range paths {
		step := Step{Trigger: Exact("/" + string(c))}
		if i > 0 {
			step.Within = 10 * second
		}
		s.Steps = append(s.Steps, step)
	}
	return s
}

func with(s Spec, change func(*Spec)) Spec {
	change(&s)
	return s
}

// completions feeds the knocks of one client to a machine, and returns a "*" for
// each knock that completes the sequence and a "-" for each other. The knocks
// "a b.c" request /a, /b and /c; a space waits one second, a dot ten seconds, and
// an exclamation mark one nanosecond.
func completions(t testing.TB, s Spec, knocks string) (done string) {
	t.Helper()
	set, err := NewSet([]Spec{s}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := set.Machines()[0]
	var state State
	var now time.Duration
	for _, c := range knocks {
		switch c {
		case ' ':
			now += second
			continue
		case '.':
			now += 10 * second
			continue
		case '!':
			now++
			continue
		}
		steps, counts := set.Match(Request{Path: "/" + string(c)}, nil).Steps(m)
		complete := false
		if counts {
			state, complete = m.Advance(state, steps, now)
		}
		if complete {
			done += "*"
		} else {
			done += "-"
		}
	}
	return done
}

func TestMachineCompletesTheRightSequences(t *testing.T) {
	lenient := func(s *Spec) { s.Strict = false }
	for _, tt := range []struct {
		name  string
		spec  Spec
		knock string
		want  string
	}{
		{"the right steps in order complete", spec("abc"), "a b c", "--*"},
		{"knocks at the same instant keep their order", spec("abc"), "abc", "--*"},
		{"one step completes at once", spec("a"), "a a", "**"},
		{"a wrong order does not complete", spec("abc"), "a c b", "---"},
		{"a missing step does not complete", spec("abc"), "a c", "--"},
		{"a wrong path starts over", spec("abc"), "a b x c", "----"},
		{"after a wrong path the sequence can be begun again", spec("abc"), "a x a b c", "----*"},
		{"not strict: other paths do no harm", with(spec("abc"), lenient), "a x b y c", "----*"},
		{"not strict: a step out of order starts over", with(spec("abc"), lenient), "a c b c", "----"},
		{"an ignored path never counts", with(spec("abc"), func(s *Spec) { s.Ignore = []string{"/f"} }), "a f b f c", "----*"},
		{"a step repeated does no harm", spec("abc"), "a a b b b c", "-----*"},
		{"after a completion the client starts from nothing", spec("abc"), "a b c c", "--*-"},
		{"the last step of one is not the first of the next", spec("aba"), "a b a b a", "--*--"},
		{"the first step always starts anew", spec("abc"), "a b a b c", "----*"},
		{"a step just in time", spec("ab"), "a.b", "-*"},
		{"a step too late", spec("ab"), "a.!b", "--"},
		{"the time runs from the first knock of the step before", spec("abc"), "a b     b     c", "---*"},
		{"a repeated step does not gain time", spec("abc"), "a b     b     !c", "----"},
		{"a repeated first step gains time, since it starts anew", spec("ab"), "a     a.b", "--*"},
		{"a sequence with the same step twice needs it twice", spec("aab"), "a a b", "--*"},
		{"a sequence with the same step twice does not complete with one", spec("aab"), "a b", "--"},
		{"a sequence with the same step twice completes with more than two", spec("aab"), "a a a a b", "----*"},
		{"an overlapping prefix: /a /b /a /c", spec("abac"), "a b a b a c", "-----*"},
		{"all steps inside the window", with(spec("abc"), func(s *Spec) { s.Window = 10 * second }), "a     b     c", "--*"},
		{"the last step outside the window", with(spec("abc"), func(s *Spec) { s.Window = 10 * second }), "a     b     !c", "---"},
		{"the window runs from the latest start", with(spec("abc"), func(s *Spec) { s.Window = 10 * second }), "a     a     b     c", "---*"},
		{"a window that leaves room for a later start only", with(spec("aab"), func(s *Spec) { s.Window = 3 * second }), "a  a  a b", "---*"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := completions(t, tt.spec, tt.knock); got != tt.want {
				t.Errorf("knocks %q: completions %s, want %s", tt.knock, got, tt.want)
			}
		})
	}
}

func TestProgressEndsAtItsDeadline(t *testing.T) {
	m, err := NewMachine(with(spec("abc"), func(s *Spec) { s.Window = 12 * second }))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Deadline(State{}); got != 0 {
		t.Errorf("deadline of a client that has not begun: %v", got)
	}
	state, _ := m.Advance(State{}, 1, 1*second)
	if got, want := m.Deadline(state), 11*second; got != want || state.Step() != 1 {
		t.Errorf("after the first step: deadline %v, step %d", got, state.Step())
	}
	state, _ = m.Advance(state, 2, 5*second)
	if got, want := m.Deadline(state), 13*second; got != want || state.Step() != 2 {
		t.Errorf("after the second step: deadline %v, step %d; want the window's end %v", got, state.Step(), want)
	}
	if late, _ := m.Advance(state, 2, 13*second+1); late != (State{}) {
		t.Errorf("a knock after the deadline leaves %+v", late)
	}
}

func TestAdvanceLeavesTheOldStateAlone(t *testing.T) {
	m, err := NewMachine(spec("aab"))
	if err != nil {
		t.Fatal(err)
	}
	one, _ := m.Advance(State{}, 0b11, 0)
	two, _ := m.Advance(one, 0b11, 1)
	lower := *two.lower
	for range 3 {
		m.Advance(two, 0b11, 5)
		m.Advance(two, 0b100, 6)
	}
	if one.step != 1 || two.step != 2 || *two.lower != lower {
		t.Errorf("states changed: %+v, %+v", one, two)
	}
}

func TestARunCarriesItsLatestCredential(t *testing.T) {
	s := spec("abcd")
	s.Steps[0].Trigger = Template("/{totp}")
	s.Steps[2].Trigger = Template("/k/{totp}")
	m, err := NewMachine(s)
	if err != nil {
		t.Fatal(err)
	}
	one, two := &Credential{User: "one"}, &Credential{User: "two"}
	state, _, _ := m.AdvanceWith(State{}, 0b0001, one, 0)
	if run, ok := m.Reaches(state, 0, 0); run != nil || !ok {
		t.Errorf("the first step starts anew by %v, %v", run, ok)
	}
	state, _, _ = m.AdvanceWith(state, 0b0010, nil, 0)
	if run, ok := m.Reaches(state, 2, 0); run != one || !ok {
		t.Errorf("the third step goes on with %v, %v", run, ok)
	}
	state, _, _ = m.AdvanceWith(state, 0b0100, two, 0)
	if _, complete, by := m.AdvanceWith(state, 0b1000, nil, 0); !complete || by != two {
		t.Errorf("complete %v by %v", complete, by)
	}
}

// A knock that the oracle knows of: which steps it matches, when it came, and
// whether it was struck out.
type oracleKnock struct {
	steps  Steps
	at     time.Duration
	struck bool
}

// completes applies the definition in the package's comment, word by word, to
// all knocks since the last completion.
func completes(s Spec, history []oracleKnock) bool {
	var counted []oracleKnock
	for _, k := range history {
		if !k.struck && (k.steps != 0 || s.Strict) {
			counted = append(counted, k)
		}
	}
	if latest := history[len(history)-1]; len(counted) == 0 || latest.struck || latest.steps == 0 && !s.Strict {
		return false
	}
	for begin := range counted {
		if fits(s, counted[begin:], 0, counted[begin].at, counted[begin].at) {
			return true
		}
	}
	return false
}

// fits reports whether run can be read as steps i to the last, its first knock
// being the first of step i at instant first.
func fits(s Spec, run []oracleKnock, i int, first, start time.Duration) bool {
	if run[0].steps&(1<<i) == 0 {
		return false
	}
	last := i == len(s.Steps)-1
	if len(run) == 1 {
		return last && (s.Window == 0 || run[0].at-start <= s.Window)
	}
	if last {
		return false // the last step comes once
	}
	next := run[1]
	if next.at-first <= s.Steps[i+1].Within && fits(s, run[1:], i+1, next.at, start) {
		return true
	}
	return fits(s, run[1:], i, first, start)
}

// compare runs the machine and the oracle over the same knocks.
func compare(t interface{ Fatalf(string, ...any) }, s Spec, knocks []oracleKnock) {
	m, err := NewMachine(s)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var state State
	var history []oracleKnock
	for i, k := range knocks {
		// A step is reached when a knock at it, and at once those at all later
		// steps, would complete.
		for step := range s.Steps {
			run := slices.Clone(history)
			for rest := step; rest < len(s.Steps); rest++ {
				run = append(run, oracleKnock{steps: 1 << rest, at: k.at})
			}
			if _, got := m.Reaches(state, step, k.at); got != completes(s, run) {
				t.Fatalf("before knock %d of %v: machine reaches step %d: %v; spec %+v", i+1, knocks[:i+1], step+1, got, s)
			}
		}
		history = append(history, k)
		want := completes(s, history)
		before := m.Deadline(state)
		knock := Match{Hits: []Hit{{Machine: m, Steps: k.steps}}}
		if k.struck {
			knock.Strike()
		}
		got := false
		if hit, counts := knock.Hit(m); counts {
			state, got = m.Advance(state, hit.Steps, k.at)
		}
		if got != want {
			t.Fatalf("knock %d of %v: machine says %v, definition %v; spec %+v", i+1, knocks[:i+1], got, want, s)
		}
		if got && len(s.Steps) > 1 && k.at > before {
			t.Fatalf("knock %d of %v completes after the deadline %v; spec %+v", i+1, knocks[:i+1], before, s)
		}
		if got {
			history = nil
		}
	}
}

func TestMachineAgreesWithTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := rapid.SampledFrom([]time.Duration{1, 2, 3, 5, second})
		s := Spec{Name: "test", Strict: rapid.Bool().Draw(t, "strict")}
		for i := range rapid.IntRange(1, 5).Draw(t, "length") {
			step := Step{Trigger: Exact("/any")} // the steps of a knock are drawn below
			if i > 0 {
				step.Within = limits.Draw(t, "within")
			}
			s.Steps = append(s.Steps, step)
		}
		if rapid.Bool().Draw(t, "bounded") {
			s.Window = limits.Draw(t, "a") + limits.Draw(t, "b")
		}
		// A small alphabet of knocks, each matching any set of steps: steps
		// that share a path, prefixes that overlap, knocks that match nothing.
		all := Steps(1)<<len(s.Steps) - 1
		alphabet := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Steps {
			return Steps(rapid.Uint32().Draw(t, "steps")) & all
		}), 1, 4).Draw(t, "alphabet")
		for i := range s.Steps { // and one knock for each step, so that completions are common
			alphabet = append(alphabet, 1<<i)
		}
		gaps := []time.Duration{0, 1}
		for _, limit := range append([]time.Duration{s.Window}, withins(s)...) {
			if limit > 0 {
				gaps = append(gaps, limit-1, limit, limit+1)
			}
		}
		var knocks []oracleKnock
		var now time.Duration
		for range rapid.IntRange(1, 14).Draw(t, "knocks") {
			now += rapid.SampledFrom(gaps).Draw(t, "gap")
			// One in four is struck out, whatever it matches.
			struck := rapid.IntRange(0, 3).Draw(t, "struck") == 3
			knocks = append(knocks, oracleKnock{rapid.SampledFrom(alphabet).Draw(t, "knock"), now, struck})
		}
		compare(t, s, knocks)
	})
}

func withins(s Spec) (w []time.Duration) {
	for _, step := range s.Steps {
		w = append(w, step.Within)
	}
	return w
}

// FuzzMachine makes a spec and a history of knocks from its input, and compares the machine
// with the definition.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{3, 0, 5, 5, 1, 1, 2, 1, 4, 1})
	f.Add([]byte{3, 0, 5, 5, 1, 1, 0x80, 1, 2, 1, 0x81, 1, 4, 1})
	f.Add([]byte{0x84, 7, 2, 3, 2, 3, 1, 3, 2, 3, 4, 1, 8, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		take := func() (b byte) {
			if len(data) > 0 {
				b, data = data[0], data[1:]
			}
			return b
		}
		head := take()
		s := Spec{Name: "test", Strict: head&0x80 != 0, Window: time.Duration(take() % 16)}
		for i := range int(head%5) + 1 {
			step := Step{Trigger: Exact("/any")}
			if i > 0 {
				step.Within = time.Duration(take()%6) + 1
			}
			s.Steps = append(s.Steps, step)
		}
		var knocks []oracleKnock
		var now time.Duration
		for len(data) > 0 && len(knocks) < 14 {
			what := take()
			now += time.Duration(take() % 8)
			knocks = append(knocks, oracleKnock{Steps(what) & (1<<len(s.Steps) - 1), now, what&0x80 != 0})
		}
		compare(t, s, knocks)
	})
}

func BenchmarkAdvance(b *testing.B) {
	m, err := NewMachine(spec("abc"))
	if err != nil {
		b.Fatal(err)
	}
	begun, _ := m.Advance(State{}, 0b001, 0)
	for _, bb := range []struct {
		name  string
		state State
		knock Steps
	}{
		{"miss", begun, 0},
		{"first", State{}, 0b001},
		{"second", begun, 0b010},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Advance(bb.state, bb.knock, second)
			}
		})
	}
	b.Run("repeated-steps", func(b *testing.B) {
		m, err := NewMachine(spec("aab"))
		if err != nil {
			b.Fatal(err)
		}
		state, _ := m.Advance(State{}, 0b011, 0)
		b.ReportAllocs()
		for b.Loop() {
			m.Advance(state, 0b011, second)
		}
	})
}
