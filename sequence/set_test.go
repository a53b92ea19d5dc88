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

func one(s Step) Spec { return Spec{Name: "test", Steps: []Step{s}} }

func TestStepsMatchRequests(t *testing.T) {
	sum := sha256.Sum256([]byte("/hidden"))
	get := func(path string) Request { return Request{Method: "GET", Host: "example.org", Path: path} }
	for _, tt := range []struct {
		name    string
		step    Step
		request Request
		want    bool
	}{
		{"an exact path", Step{Trigger: Exact("/a")}, get("/a"), true},
		{"the trigger is only a prefix of the path", Step{Trigger: Exact("/a")}, get("/ab"), false},
		{"the path is only a prefix of the trigger", Step{Trigger: Exact("/ab")}, get("/a"), false},
		{"case counts", Step{Trigger: Exact("/a")}, get("/A"), false},
		{"no cleaning of doubled slashes", Step{Trigger: Exact("/a")}, get("//a"), false},
		{"no cleaning of dots", Step{Trigger: Exact("/a")}, get("/x/../a"), false},
		{"no cleaning of a trailing slash", Step{Trigger: Exact("/a")}, get("/a/"), false},
		{"a hashed path", Step{Trigger: Hash(hex.EncodeToString(sum[:]))}, get("/hidden"), true},
		{"another path than the hashed one", Step{Trigger: Hash(hex.EncodeToString(sum[:]))}, get("/hidden2"), false},
		{"a regex anywhere in the path", Step{Trigger: Regex(`\.php$`)}, get("/x/trigger.php"), true},
		{"an anchored regex", Step{Trigger: Regex(`^/trigger\.php`)}, get("/x/trigger.php"), false},
		{"a regex on bytes that are no UTF-8", Step{Trigger: Regex(`^/a.b$`)}, get("/a\xffb"), true},
		{"the method", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "GET"}}, get("/a"), true},
		{"another method", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "POST"}}, get("/a"), false},
		{"HEAD is not GET", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "GET"}}, Request{Method: "HEAD", Path: "/a"}, false},
		{"no method: any", Step{Trigger: Exact("/a")}, Request{Method: "BREW", Path: "/a"}, true},
		{"the host", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "example.org"}}, get("/a"), true},
		{"the host whatever its case", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "Example.ORG"}}, get("/a"), true},
		{"the host without its port", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "example.org"}}, Request{Host: "example.org:8080", Path: "/a"}, true},
		{"another host", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "example.org"}}, Request{Host: "example.com", Path: "/a"}, false},
		{"no host at all", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "example.org"}}, Request{Path: "/a"}, false},
		{"the host with a trailing dot", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "example.org"}}, Request{Host: "Example.org.:8080", Path: "/a"}, true},
		{"a trailing dot in the trigger", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "example.org."}}, get("/a"), true},
		{"two trailing dots", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "example.org"}}, Request{Host: "example.org..", Path: "/a"}, false},
		{"an IPv6 host written otherwise", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "2001:db8::1"}}, Request{Host: "[2001:DB8:0::1]", Path: "/a"}, true},
		{"another IPv6 host", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "2001:db8::1"}}, Request{Host: "[2001:db8::2]", Path: "/a"}, false},
		{"the scheme https", Step{Trigger: Exact("/a"), Conditions: Conditions{Scheme: HTTPS}}, Request{Path: "/a", Scheme: HTTPS}, true},
		{"the scheme http", Step{Trigger: Exact("/a"), Conditions: Conditions{Scheme: HTTP}}, Request{Path: "/a", Scheme: HTTP}, true},
		{"HTTP where the step asks for HTTPS", Step{Trigger: Exact("/a"), Conditions: Conditions{Scheme: HTTPS}}, Request{Path: "/a", Scheme: HTTP}, false},
		{"HTTPS where the step asks for HTTP", Step{Trigger: Exact("/a"), Conditions: Conditions{Scheme: HTTP}}, Request{Path: "/a", Scheme: HTTPS}, false},
		{"an unknown scheme of the request", Step{Trigger: Exact("/a"), Conditions: Conditions{Scheme: HTTPS}}, Request{Path: "/a", Scheme: "unknown"}, false},
		{"no scheme: any", Step{Trigger: Exact("/a")}, Request{Path: "/a", Scheme: "unknown"}, true},
		{"a hashed path over HTTP where the step asks for HTTPS", Step{Trigger: Hash(hex.EncodeToString(sum[:])), Conditions: Conditions{Scheme: HTTPS}}, Request{Path: "/hidden", Scheme: HTTP}, false},
		{"a regex over HTTP where the step asks for HTTPS", Step{Trigger: Regex("^/a$"), Conditions: Conditions{Scheme: HTTPS}}, Request{Path: "/a", Scheme: HTTP}, false},
		{"an IPv6 host", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "2001:db8::1"}}, Request{Host: "[2001:db8::1]:80", Path: "/a"}, true},
		{"a parameter", Step{Trigger: Exact("/a"), Conditions: Conditions{Query: map[string]string{"k": "v"}}}, Request{Path: "/a", RawQuery: "k=v"}, true},
		{"a parameter beside others", Step{Trigger: Exact("/a"), Conditions: Conditions{Query: map[string]string{"k": "v"}}}, Request{Path: "/a", RawQuery: "x=1&k=v&y"}, true},
		{"a parameter, percent-encoded", Step{Trigger: Exact("/a"), Conditions: Conditions{Query: map[string]string{"k": "v w"}}}, Request{Path: "/a", RawQuery: "%6b=v+w"}, true},
		{"a parameter with another value", Step{Trigger: Exact("/a"), Conditions: Conditions{Query: map[string]string{"k": "v"}}}, Request{Path: "/a", RawQuery: "k=V"}, false},
		{"a parameter twice", Step{Trigger: Exact("/a"), Conditions: Conditions{Query: map[string]string{"k": "v"}}}, Request{Path: "/a", RawQuery: "k=v&k=v"}, false},
		{"a missing parameter", Step{Trigger: Exact("/a"), Conditions: Conditions{Query: map[string]string{"k": "v"}}}, Request{Path: "/a"}, false},
		{"one of two parameters missing", Step{Trigger: Exact("/a"), Conditions: Conditions{Query: map[string]string{"k": "v", "l": "w"}}}, Request{Path: "/a", RawQuery: "k=v"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set, err := NewSet([]Spec{one(tt.step)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if steps, _ := set.Match(tt.request, nil).Steps(set.Machines()[0]); (steps != 0) != tt.want {
				t.Errorf("%+v against %+v: steps %b, want a match: %v", tt.request, tt.step, steps, tt.want)
			}
		})
	}
}

func TestTemplatesMakeCandidates(t *testing.T) {
	for _, tt := range []struct {
		name    string
		step    Step
		request Request
		code    string // empty: no candidate
	}{
		{"a code in the last segment", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k/123456"}, "123456"},
		{"a code in the middle", Step{Trigger: Template("/k/{ticket}/x")}, Request{Path: "/k/abc/x"}, "abc"},
		{"a code in the only segment", Step{Trigger: Template("/{totp}")}, Request{Path: "/123456"}, "123456"},
		{"a code of any bytes", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k/\xff {}?"}, "\xff {}?"},
		{"an empty segment", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k/"}, ""},
		{"an empty segment in the middle", Step{Trigger: Template("/k/{totp}/x")}, Request{Path: "/k//x"}, ""},
		{"an empty segment and a slash", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k//"}, ""},
		{"an empty segment before another", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k//1"}, ""},
		{"a code without the slash before it", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/kk123456"}, ""},
		{"two segments", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k/1/2"}, ""},
		{"a slash after the code", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k/1/"}, ""},
		{"another suffix", Step{Trigger: Template("/k/{totp}/x")}, Request{Path: "/k/1/y"}, ""},
		{"a longer suffix", Step{Trigger: Template("/k/{totp}/x")}, Request{Path: "/k/1/xy"}, ""},
		{"another prefix", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/l/1"}, ""},
		{"a prefix of the prefix", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k"}, ""},
		{"the template itself", Step{Trigger: Template("/k/{totp}")}, Request{Path: "/k/{totp}"}, "{totp}"},
		{"the method", Step{Trigger: Template("/k/{totp}"), Conditions: Conditions{Method: "GET"}}, Request{Method: "GET", Path: "/k/1"}, "1"},
		{"another method", Step{Trigger: Template("/k/{totp}"), Conditions: Conditions{Method: "GET"}}, Request{Method: "POST", Path: "/k/1"}, ""},
		{"another host", Step{Trigger: Template("/k/{totp}"), Conditions: Conditions{Host: "example.org"}}, Request{Host: "example.com", Path: "/k/1"}, ""},
		{"a parameter missing", Step{Trigger: Template("/k/{totp}"), Conditions: Conditions{Query: map[string]string{"a": "b"}}}, Request{Path: "/k/1"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set, err := NewSet([]Spec{one(tt.step), {Name: "other", Steps: []Step{{Trigger: Template("/other/{totp}")}}}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			k := set.Match(tt.request, nil)
			code := ""
			for _, c := range k.Candidates {
				code += c.Code
			}
			if code != tt.code || len(k.Hits) != 0 || (len(k.Candidates) > 0) != (tt.code != "") {
				t.Errorf("candidates %+v, hits %+v; want %q", k.Candidates, k.Hits, tt.code)
			}
			if code == "" {
				return
			}
			p := new(Credential)
			k.Accept(k.Candidates[0], p)
			if hit, counts := k.Hit(set.Machines()[0]); hit.Steps != 1 || hit.Credential != p || !counts {
				t.Errorf("accepted, it is the hit %+v, counts %v", hit, counts)
			}
		})
	}
	ignoring := one(Step{Trigger: Template("/k/{totp}")})
	ignoring.Ignore = []string{"/k/1"}
	set, err := NewSet([]Spec{ignoring}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if k := set.Match(Request{Path: "/k/1"}, nil); len(k.Candidates) != 0 {
		t.Error("an ignored path is a candidate")
	}
}

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

func TestStepValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		step Step
		want string // part of the error; empty: valid
	}{
		{"a path", Step{Trigger: Exact("/a b/ü")}, ""},
		{"a regex", Step{Trigger: Regex(`^/a`)}, ""},
		{"a template", Step{Trigger: Template("/k/{totp}")}, ""},
		{"a template in the middle", Step{Trigger: Template("/k/{ticket}/x")}, ""},
		{"no trigger", Step{}, "exactly one"},
		{"an empty path", Step{Trigger: Exact("")}, "starts with /"},
		{"an empty regex", Step{Trigger: Regex("")}, "not empty"},
		{"an empty template", Step{Trigger: Template("")}, "starts with /"},
		{"an empty hash", Step{Trigger: Hash("")}, "64"},
		{"no slash", Step{Trigger: Exact("a")}, "starts with /"},
		{"encoded", Step{Trigger: Exact("/%41")}, "decoded"},
		{"a percent sign alone", Step{Trigger: Exact("/100%")}, ""},
		{"a query", Step{Trigger: Exact("/a?k=v")}, "no ?"},
		{"an unknown variable", Step{Trigger: Exact("/k/{code}")}, "braces"},
		{"a variable in a part of a segment", Step{Trigger: Template("/k{totp}")}, "whole segment"},
		{"two variables", Step{Trigger: Template("/{totp}/{totp}")}, "once"},
		{"a bad regex", Step{Trigger: Regex("(")}, "RE2"},
		{"a short hash", Step{Trigger: Hash("abcd")}, "64"},
		{"an upper-case hash", Step{Trigger: Hash(strings.Repeat("AB", 32))}, "lower-case"},
		{"a method with a space", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "GET /"}}, "one word"},
		{"a host that is a URL", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "http://example.org"}}, "bare name"},
		{"a method of two words", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "GET IT"}}, "one word"},
		{"a method with a control character", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "GET\x7f"}}, "one word"},
		{"a method with a letter beyond ASCII", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "GÄT"}}, "one word"},
		{"a method with a hyphen", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "M-SEARCH"}}, ""},
		{"a host with a space", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "a b"}}, "bare name"},
		{"a method in lower case", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "get"}}, "upper case (GET)"},
		{"a method that no request can have", Step{Trigger: Exact("/a"), Conditions: Conditions{Method: "GET,POST"}}, "one word"},
		{"a wildcard for a host", Step{Trigger: Exact("/a"), Conditions: Conditions{Host: "*.example.org"}}, "stands for itself"},
		{"an unknown scheme", Step{Trigger: Exact("/a"), Conditions: Conditions{Scheme: "ftp"}}, "http or https"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.step.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
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
