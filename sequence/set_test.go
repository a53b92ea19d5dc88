package sequence

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// matches is what a step matches, by the comments of the kinds and the conditions.
func matches(t Step, r Request) bool {
	path := false
	switch trigger := t.Trigger.(type) {
	case Exact:
		path = r.Path == string(trigger)
	case Hash:
		path = fmt.Sprintf("%x", sha256.Sum256([]byte(r.Path))) == string(trigger)
	case Regex:
		path = regexp.MustCompile(string(trigger)).MatchString(r.Path)
	case Template:
		before, after, _ := strings.Cut(string(trigger), TOTP)
		path = regexp.MustCompile(`(?s)^` + regexp.QuoteMeta(before) + `[^/]+` + regexp.QuoteMeta(after) + `$`).MatchString(r.Path)
	}
	host := strings.ToLower(r.Host)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	query, _ := url.ParseQuery(r.RawQuery)
	for name, value := range t.Query {
		path = path && len(query[name]) == 1 && query[name][0] == value
	}
	return path && (t.Method == "" || t.Method == r.Method) && (t.Scheme == "" || t.Scheme == r.Scheme) &&
		(t.Host == "" || strings.TrimSuffix(host, ".") == strings.ToLower(t.Host))
}

func TestASetAgreesWithEachOfItsTriggers(t *testing.T) {
	one := func(values ...string) *rapid.Generator[string] { return rapid.SampledFrom(values) }
	schemes := one("", HTTP, HTTPS)
	rapid.Check(t, func(t *rapid.T) {
		var spec Spec
		spec.Name = "test"
		for i := range rapid.IntRange(1, 6).Draw(t, "steps") {
			step := Step{Conditions: Conditions{Method: one("", "GET", "HEAD").Draw(t, "method"), Host: one("", "a.example", "B.example").Draw(t, "host"), Scheme: schemes.Draw(t, "scheme")}}
			if i > 0 {
				step.Within = second
			}
			path := one("/a", "/b", "/c").Draw(t, "path")
			switch one("path", "hash", "regex", "template").Draw(t, "kind") {
			case "path":
				step.Trigger = Exact(path)
			case "hash":
				step.Trigger = Hash(fmt.Sprintf("%x", sha256.Sum256([]byte(path))))
			case "regex":
				step.Trigger = Regex("^" + path)
			case "template":
				step.Trigger = Template(one("/{totp}", "/{totp}/b", "/a/{totp}", "/b/{totp}/b").Draw(t, "template"))
			}
			if rapid.Bool().Draw(t, "query") {
				step.Query = map[string]string{"k": one("", "v").Draw(t, "value")}
			}
			spec.Steps = append(spec.Steps, step)
		}
		set, err := NewSet([]Spec{spec}, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := Request{Method: one("GET", "HEAD").Draw(t, "of request"), Host: one("", "a.example", "A.EXAMPLE.:80", "b.example:8080", "b.example..").Draw(t, "to host"),
			Path: one("/a", "/b", "/ab", "/", "/a/b", "/b/b", "/b/a/b", "/b//b", "/a/", "//b").Draw(t, "of path"), RawQuery: one("", "k", "k=v", "k=v&k=v").Draw(t, "with query"), Scheme: one(HTTP, HTTPS, "unknown").Draw(t, "by scheme")}
		match := set.Match(r, nil)
		got, _ := match.Steps(set.Machines()[0])
		for _, c := range match.Candidates {
			got |= 1 << c.Step
		}
		var want Steps
		for i, step := range spec.Steps {
			if matches(step, r) {
				want |= 1 << i
			}
		}
		if got != want {
			t.Errorf("%+v matches steps %b of %+v, want %b", r, got, spec.Steps, want)
		}
		if want != 0 && !set.Concerns(r.Path) {
			t.Errorf("Concerns(%s) is false", r.Path)
		}
	})
}

func TestMatchFindsTheStepsOfEverySequence(t *testing.T) {
	named := func(name string, s Spec) Spec { s.Name = name; return s }
	set, err := NewSet([]Spec{
		named("one", spec("aba")),
		named("two", spec("ca")),
		named("three", spec("xyz")),
		named("four", with(spec("bc"), func(s *Spec) { s.Ignore = []string{"/a"} })),
		named("five", one(Step{Trigger: Regex("^/[a-c]$")})),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	k := set.Match(Request{Path: "/a"}, nil)
	var got []string
	for _, hit := range k.Hits {
		got = append(got, fmt.Sprintf("%s:%b", hit.Machine.Name(), hit.Steps))
	}
	if want := "one:101 two:10 five:1"; strings.Join(got, " ") != want {
		t.Errorf("hits %v, want %s", got, want)
	}
	if steps, counts := k.Steps(set.Machine("three")); steps != 0 || !counts {
		t.Errorf("a path that is no step of three: steps %b, counts %v", steps, counts)
	}
	if _, counts := k.Steps(set.Machine("four")); counts {
		t.Error("a path that four ignores counts")
	}
}

func TestAnIgnoredPathMatchesNoStep(t *testing.T) {
	s := one(Step{Trigger: Regex("ico")})
	s.Ignore = []string{"/favicon.ico"}
	set, err := NewSet([]Spec{s}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if k := set.Match(Request{Path: "/favicon.ico"}, nil); len(k.Hits) != 0 {
		t.Errorf("hits %+v", k.Hits)
	}
}

func TestNewSetKeepsTheMachinesOfUnchangedSequences(t *testing.T) {
	before, err := NewSet([]Spec{spec("abc")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Spec){
		"strict":  func(s *Spec) { s.Strict = false },
		"window":  func(s *Spec) { s.Window = second },
		"within":  func(s *Spec) { s.Steps[1].Within = second },
		"trigger": func(s *Spec) { s.Steps[0].Trigger = Exact("/z") },
		"query":   func(s *Spec) { s.Steps[0].Query = map[string]string{"k": "v"} },
		"ignore":  func(s *Spec) { s.Ignore = []string{"/f"} },
		"kind":    func(s *Spec) { s.Steps[0].Trigger = Regex("/a") },
		"length":  func(s *Spec) { s.Steps = s.Steps[:2] },
	} {
		after, err := NewSet([]Spec{with(spec("abc"), change)}, before)
		if err != nil {
			t.Fatal(err)
		}
		if after.Machine("test") == before.Machine("test") {
			t.Errorf("%s changed, and the machine is still the old one", name)
		}
	}
	after, err := NewSet([]Spec{spec("abc")}, before)
	if err != nil {
		t.Fatal(err)
	}
	if after.Machine("test") != before.Machine("test") {
		t.Error("nothing changed, and the machine is a new one")
	}
}

// A configuration that is read again gives equal specs, though not the same values.
func TestSequencesOfEveryKindAreUnchangedWhenTheyAreReadAgain(t *testing.T) {
	read := func() Spec {
		step := func(t Trigger) Step {
			return Step{Trigger: t, Within: second, Conditions: Conditions{Method: "GET", Query: map[string]string{"k": "v"}}}
		}
		s := Spec{Name: "test", Steps: []Step{
			step(Exact(strings.Clone("/a"))), step(Hash(strings.Repeat("0a", 32))), step(Regex(strings.Clone("^/a"))), step(Template(strings.Clone("/k/{totp}"))),
		}}
		s.Steps[0].Within = 0
		return s
	}
	before, err := NewSet([]Spec{read()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	after, err := NewSet([]Spec{read()}, before)
	if err != nil {
		t.Fatal(err)
	}
	if after.Machine("test") != before.Machine("test") {
		t.Error("the machine is a new one")
	}
	for i, trigger := range []Trigger{Exact("/b"), Hash(strings.Repeat("0b", 32)), Regex("^/b"), Template("/k/{ticket}")} {
		changed := read()
		changed.Steps[i].Trigger = trigger
		if after, err = NewSet([]Spec{changed}, before); err != nil {
			t.Fatal(err)
		}
		if after.Machine("test") == before.Machine("test") {
			t.Errorf("step %d changed, and the machine is still the old one", i+1)
		}
	}
}

// A knock whose path concerns no sequence is dropped unparsed. So Concerns must be
// true for every path that could match, and should be false for most paths that
// strangers ask for.
func TestASetConcernsThePathsThatMayMatch(t *testing.T) {
	sum := sha256.Sum256([]byte("/hidden"))
	for _, tt := range []struct {
		name    string
		step    Step
		yes, no []string
	}{
		{"a path", Step{Trigger: Exact("/a")}, []string{"/a"}, []string{"/", "/ab", "/A", ""}},
		{"a path with conditions", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "POST", Host: "h", Scheme: HTTPS, Query: map[string]string{"k": "v"}}}, []string{"/a"}, []string{"/b"}},
		{"a hash", Step{Trigger: Hash(hex.EncodeToString(sum[:]))}, []string{"/hidden"}, []string{"/hidden2", "/", ""}},
		{"a regex", Step{Trigger: Regex(`^/t[0-9]$`)}, []string{"/t1"}, []string{"/t", "/t12"}},
		{"a template", Step{Trigger: Template("/k/{totp}")}, []string{"/k/1", "/k/1/2"}, []string{"/k/", "/k", "/l/1", "/", "", "/kk/1"}},
		{"a template in the middle", Step{Trigger: Template("/long/prefix/{ticket}/x")}, []string{"/long/prefix/1/x"}, []string{"/long/prefiy/1/x", "/long/prefix/", "/l", "/long/prefix"}},
		{"a template at the root", Step{Trigger: Template("/{totp}")}, []string{"/123456", "/x"}, []string{"/", ""}},
	} {
		set, err := NewSet([]Spec{one(tt.step)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range tt.yes {
			if !set.Concerns(path) {
				t.Errorf("%s: Concerns(%q) is false", tt.name, path)
			}
		}
		for _, path := range tt.no {
			if set.Concerns(path) {
				t.Errorf("%s: Concerns(%q) is true", tt.name, path)
			}
		}
	}
	empty, err := NewSet(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if empty.Concerns("/a") {
		t.Error("Concerns is true for an empty set")
	}
}

func TestASetIgnoresWhatAllItsSequencesIgnore(t *testing.T) {
	ignoring := func(name string, paths ...string) Spec {
		s := one(Step{Trigger: Exact("/" + name)})
		s.Name, s.Ignore = name, paths
		return s
	}
	set, err := NewSet([]Spec{ignoring("one", "/x", "/y"), ignoring("two", "/y", "/z")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/x": false, "/y": true, "/z": false, "/one": false} {
		if set.Ignores(path) != want {
			t.Errorf("%s: ignored %v", path, !want)
		}
	}
}

func TestNewSetRefusesBadSpecs(t *testing.T) {
	for name, specs := range map[string][]Spec{
		"no steps":                 {{Name: "test"}},
		"33 steps":                 {spec(strings.Repeat("a", 33))},
		"two of a name":            {spec("a"), spec("b")},
		"within on the first step": {with(spec("ab"), func(s *Spec) { s.Steps[0].Within = second })},
		"no within on the second":  {with(spec("ab"), func(s *Spec) { s.Steps[1].Within = 0 })},
		"a negative window":        {with(spec("ab"), func(s *Spec) { s.Window = -1 })},
		"a bad trigger":            {one(Step{Trigger: Regex("(")})},
	} {
		if _, err := NewSet(specs, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzMatch feeds arbitrary requests to a set that has every kind of trigger.
func FuzzMatch(f *testing.F) {
	set, err := NewSet([]Spec{
		spec("abc"),
		{Name: "template", Steps: []Step{{Trigger: Template("/k/{totp}/x")}}},
		{Name: "kinds", Steps: []Step{
			{Trigger: Regex(`^/[^/]+\.php$`)},
			{Trigger: Hash(strings.Repeat("00", 32)), Within: second},
			{Trigger: Exact("/q"), Conditions: Conditions{Method: "GET", Host: "example.org", Query: map[string]string{"k": "v"}}, Within: second},
		}},
	}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("GET", "example.org:80", "/q", "k=v")
	f.Add("GET", "", "/k/123456/x", "")
	f.Add("", "[::1", "/\xff.php", "k=%zz&;")
	f.Fuzz(func(t *testing.T, method, host, path, query string) {
		k := set.Match(Request{Method: method, Host: host, Path: path, RawQuery: query}, nil)
		for _, hit := range k.Hits {
			if hit.Steps == 0 || hit.Steps >= 1<<hit.Machine.Len() {
				t.Errorf("steps %b of %s", hit.Steps, hit.Machine.Name())
			}
		}
		for _, c := range k.Candidates {
			if c.Code == "" || strings.Contains(c.Code, "/") || path != "/k/"+c.Code+"/x" {
				t.Errorf("candidate %+v of %q", c, path)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 1000} {
		var specs []Spec
		for i := range n {
			s := Spec{Name: fmt.Sprint("s", i), Strict: true, Ignore: []string{"/favicon.ico"}}
			for j := range 3 {
				step := Step{Trigger: Exact(fmt.Sprintf("/%d/%d", i, j))}
				if j > 0 {
					step.Within = second
				}
				s.Steps = append(s.Steps, step)
			}
			specs = append(specs, s)
		}
		set, err := NewSet(specs, nil)
		if err != nil {
			b.Fatal(err)
		}
		for name, path := range map[string]string{"hit": "/0/1", "miss": "/index.html"} {
			b.Run(fmt.Sprintf("%s/sequences=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				var buf [4]Hit
				r := Request{Method: "GET", Host: "example.org", Path: path}
				for b.Loop() {
					set.Match(r, buf[:0])
				}
			})
		}
	}
}
