package tty

import (
	"os"
	"strings"
	"testing"
)

func TestAProblemSaysWhatToDo(t *testing.T) {
	for _, tt := range [][3]string{
		{"the file has errors (mend it, then webknock reload (or restart))", "the file has errors", "mend it, then webknock reload (or restart)"},
		{"the guard was taken away", "the guard was taken away", "run webknock reload to guard the doors again, and webknock confirm if it asks for that"},
		{"there is no certificate for a.org yet (the log says why)", "there is no certificate for a.org yet (the log says why)", "see why in the log (journalctl -u webknock); the domain must lead to this host, on port 80 or 443"},
		{"x(y)", "x(y)", noAdvice},
		{")", ")", noAdvice},
		{"", "", noAdvice},
	} {
		if what, todo := Problem(tt[0]); what != tt[1] || todo != tt[2] {
			t.Errorf("Problem(%q) is %q, %q", tt[0], what, todo)
		}
	}
}

// The page and the commands give the same advice.
func TestThePageHasTheSameAdvice(t *testing.T) {
	page, err := os.ReadFile("../../httpd/admin/page/files/words.js")
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	for _, a := range advice {
		at := strings.Index(string(page), "[/"+a.about.String()+"/, '")
		if at < last {
			t.Errorf("words.js does not look for %s, or at another place", a.about)
		}
		last = at
	}
	if n := strings.Count(string(page), "\n\t[/"); n != len(advice) {
		t.Errorf("words.js has %d, want %d", n, len(advice))
	}
}
