package sequence

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// one returns a sequence of one step.
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
