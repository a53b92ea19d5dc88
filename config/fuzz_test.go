package config

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// FuzzParse looks for files on which the loader panics, hangs, or fails without
// saying where.
func FuzzParse(f *testing.F) {
	sample, err := os.ReadFile("../docs/webknock.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{smallest, string(sample), off.ReplaceAllString(string(sample), "$1$2"),
		"x: &i [favicon.ico]\n" + strings.Replace(smallest, "opens:", "ignore: *i\n    opens:", 1),
		"a: &a [*a]\n", "a: &a {<<: *a}\n", "a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]\n<<: [{x: 1}, {y: 2}]\n",
		"? [a]\n: b\n", "? &k doors\n: [*k]\n", "--- \n...\n---\n", "\t- a", "a: \"", "[[a]]\nb = 1\n[a.c]\n", "a.b = 1\na.c = [{d = 2}]\n",
		"listeners = []\n[[doors]]\n[doors.prefix]\nipv4 = 0x18\n", `{"listeners": [{"address": ":8080"}]}`, "listeners: !!binary aaaa\ndoors: !x y\nsequences: 2020-01-01\n",
	} {
		for _, format := range []byte{0, 1, 2} {
			f.Add(format, []byte(text))
		}
	}
	files := []string{"/nowhere/w.yaml", "/nowhere/w.toml", "/nowhere/w.json"}
	f.Fuzz(func(t *testing.T, format byte, data []byte) {
		file := files[int(format)%len(files)]
		cfg, err := Parse(file, data)
		peek(file, data)
		WithUser(file, data, User{Name: "alice", File: "/nowhere/alice.totp", Secret: make(Secret, minSecret)})
		WithoutUser(file, data, "alice")
		if err == nil {
			if len(cfg.Listeners) == 0 || len(cfg.Sequences) == 0 {
				t.Errorf("a configuration without listeners or sequences is right: %s", data)
			}
			return
		}
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Fatalf("not an Errors: %v", err)
		}
		for _, e := range errs {
			if e.Msg == "" || e.File == "" || e.Line < 1 || e.Col < 1 {
				t.Errorf("an error without a place: %+v", e)
			}
		}
	})
}
