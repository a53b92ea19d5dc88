package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// base has no users, and a step that asks for one.
var base = strings.Replace(smallest, "[/a, /b, /c]", "[/a, '/k/{totp}']", 1)

// newUser is one whose file is not there.
func newUser(dir string) User {
	return User{Name: "new", File: filepath.Join(dir, "new.totp"), Secret: Secret("abcdefghijklmnopqrst")}
}

// usersDir holds the secrets of alice, bob and carol.
func usersDir(t testing.TB) string {
	dir := t.TempDir()
	for i, name := range []string{"alice", "bob", "carol"} {
		secret := rfcSecret[i:] + strings.Repeat("A", i)
		if err := os.WriteFile(filepath.Join(dir, name+".totp"), []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAddingAUserAppendsItAndChangesNothingElse(t *testing.T) {
	const line = "- {name: new, totp_file: new.totp}\n"
	for _, tt := range []struct{ before, after string }{
		{base, base + "\nusers:\n  " + line},
		{base + "\n", base + "\nusers:\n  " + line},
		{strings.TrimSuffix(base, "\n"), base + "\nusers:\n  " + line},
		{base + "# end", base + "# end\n\nusers:\n  " + line},
		{base + "users:\n", base + "users:\n  " + line},
		{base + "users: # none yet\nstate: /s\n", base + "users: # none yet\n  " + line + "state: /s\n"},
		{base + "users:", base + "users:\n  " + line},
		{"users:\n\n# what listens\n" + base, "users:\n  " + line + "\n# what listens\n" + base},
		{base + "users:\n- {name: alice, totp_file: alice.totp}\n", base + "users:\n- {name: alice, totp_file: alice.totp}\n" + line},
		{base + "users:\n    - name: alice # the boss\n      totp_file: alice.totp   # hers\n\n# kept\nstate: /s",
			base + "users:\n    - name: alice # the boss\n      totp_file: alice.totp   # hers\n    " + line + "\n# kept\nstate: /s"},
		{base + "users:\n  -\n    totp_file: 'alice.totp'\n    name: \"alice\"\n  # bob is ill\n", base + "users:\n  -\n    totp_file: 'alice.totp'\n    name: \"alice\"\n  " + line + "  # bob is ill\n"},
		{base + "users:\n  - {name: alice,\n     totp_file: alice.totp\n    }\n", base + "users:\n  - {name: alice,\n     totp_file: alice.totp\n    }\n  " + line},
		{base + "log: {level: info}\n\"users\": &them\n  - &a {name: alice, totp_file: alice.totp}", base + "log: {level: info}\n\"users\": &them\n  - &a {name: alice, totp_file: alice.totp}\n  " + line},
		{strings.ReplaceAll(base, "\n", "\r\n"), strings.ReplaceAll(base+"\nusers:\n  "+line, "\n", "\r\n")},
		{"---\n  " + strings.ReplaceAll(strings.TrimSpace(base), "\n", "\n  ") + "\n", "---\n  " + strings.ReplaceAll(strings.TrimSpace(base), "\n", "\n  ") + "\n\n  users:\n    " + line},
	} {
		dir := usersDir(t)
		file := filepath.Join(dir, "w.yaml")
		got, cfg, err := WithUser(file, []byte(tt.before), newUser(dir))
		if err != nil || string(got) != tt.after {
			t.Errorf("%v; of\n%s\ngot\n%s\nwant\n%s", err, tt.before, got, tt.after)
			continue
		}
		if last := cfg.Users[len(cfg.Users)-1]; last.Name != "new" || len(last.Secret) != 20 {
			t.Errorf("the last user is %v", last)
		}
		if len(cfg.Users) == 1 { // whose step would have nobody to ask
			continue
		}
		back, u, err := WithoutUser(file, got, "new")
		if want := strings.TrimSuffix(tt.before, "\n") + "\n"; err != nil || string(back) != tt.before && string(back) != want || u.File != filepath.Join(dir, "new.totp") {
			t.Errorf("taken out again: %v, %v\n%s", u, err, back)
		}
	}
}

func TestRemovingAUserChangesNothingElse(t *testing.T) {
	const head = "# all\nusers: # them\n  # the boss\n"
	alice, bob, carol := "  - {name: alice, totp_file: alice.totp}\n", "  -\n    name: bob\n\n    # his\n    totp_file: bob.totp\n", "  - totp_file: carol.totp\n    name: carol\n"
	const tail = "\n# what listens\n"
	dir := usersDir(t)
	file := filepath.Join(dir, "w.yaml")
	all := head + alice + "  # old\n" + bob + carol + tail + base
	for name, want := range map[string]string{
		"alice": head + "  # old\n" + bob + carol + tail + base,
		"bob":   head + alice + "  # old\n" + carol + tail + base,
		"carol": head + alice + "  # old\n" + bob + tail + base,
	} {
		got, u, err := WithoutUser(file, []byte(all), name)
		if err != nil || string(got) != want || u.Name != name || u.File != filepath.Join(dir, name+".totp") {
			t.Errorf("without %s: %v, %v\n%s", name, u, err, got)
		}
	}
	plain := smallest + "users:\n" + alice
	if got, _, err := WithoutUser(file, []byte(plain), "alice"); err != nil || string(got) != smallest+"users:\n" {
		t.Errorf("the only one: %v\n%s", err, got)
	}
}

func TestAnErrorOfAnEditHasItsPlaceInTheFileBeforeTheEdit(t *testing.T) {
	dir := usersDir(t)
	file := filepath.Join(dir, "w.yaml")
	withAlice := "users:\n  - {name: alice, totp_file: alice.totp}\n" + base
	withBob := "users:\n  - {name: alice, totp_file: alice.totp}\n  - {name: bob, totp_file: bob.totp}\n" + base + "    users: [bob, alice]\n"
	for _, tt := range []struct{ text, name, want string }{
		{withAlice, "alice", ":10:17: sequences[0].steps[1]: asks for something of a user, and there are none (webknock user add NAME)"},
		{withBob, "alice", `:13:18: sequences[0].users[1]: there is no user "alice" (one of bob)`},
		{withAlice, "bob", `: there is no user "bob" (webknock user list)`},
		{strings.Replace(withAlice, "22/tcp", "22", 1), "alice", `:7:13: doors[0].ports[0]: "22" is not a valid port`},
		{"users: {}\n" + smallest, "alice", `: there is no user "alice"`},
		{"[]", "alice", `: there is no user "alice"`},
	} {
		if text, _, err := WithoutUser(file, []byte(tt.text), tt.name); err == nil || text != nil || !strings.Contains(err.Error(), file+tt.want) {
			t.Errorf("without %s: %v\nwant %s%s", tt.name, err, file, tt.want)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{strings.ReplaceAll(withAlice, "alice", "new"), `:2:5: users[0]: there is a user "new" already (another name)`},
		{strings.Replace(withAlice, "22/tcp", "22", 1), `:7:13: doors[0].ports[0]: "22" is not a valid port`},
		{"users: {}\n" + smallest, `:1:8: users: is not a list`},
		{"[]", `:1:1: is not a mapping`},
		{"a: [", `:`},
	} {
		if text, _, err := WithUser(file, []byte(tt.text), newUser(dir)); err == nil || text != nil || !strings.Contains(err.Error(), file+tt.want) {
			t.Errorf("%v\nwant %s%s", err, file, tt.want)
		}
	}
	same := newUser(dir)
	same.Secret = Secret("12345678901234567890")
	if _, _, err := WithUser(file, []byte(withAlice), same); err == nil || !strings.Contains(err.Error(), `user "alice" has the same secret`) {
		t.Errorf("the same secret: %v", err)
	}
}

func TestAFileThatCannotBeEditedStaysUnchanged(t *testing.T) {
	const asJSON = `{"listeners": [{"address": ":8080"}], "doors": [{"name": "ssh", "ports": ["22/tcp"]}],
		"sequences": [{"name": "ssh", "steps": ["/a"], "opens": ["ssh"]}], "users": [{"name": "alice", "totp_file": "alice.totp"}]}`
	const asTOML = "[[listeners]]\naddress = ':8080'\n[[doors]]\nname = 'ssh'\nports = ['22/tcp']\n[[sequences]]\nname = 'ssh'\nsteps = ['/a']\nopens = ['ssh']\n[[users]]\nname = 'alice'\ntotp_file = 'alice.totp'\n"
	const item = "{name: alice, totp_file: alice.totp}"
	for _, tt := range []struct{ file, text, line, lines string }{
		{"w.json", asJSON, ":2:80", `{"name": "new", "totp_file": "new.totp"}` + "\n"},
		{"w.yaml", asJSON, ":2:80", "users:\n  - {name: new, totp_file: new.totp}\n"},
		{"w.toml", asTOML, ":10:3", "[[users]]\nname = \"new\"\ntotp_file = \"new.totp\"\n"},
		{"w.yaml", smallest + "users: [" + item + "]\n", ":10:9", "users:\n  - {name: new, totp_file: new.totp}\n"},
		{"w.yaml", smallest + "users:\n  - " + item + "\n...\n", ":11:5", "users:\n  - {name: new, totp_file: new.totp}\n"},
	} {
		dir := usersDir(t)
		file := filepath.Join(dir, tt.file)
		text, cfg, err := WithUser(file, []byte(tt.text), newUser(dir))
		if !errors.Is(err, ErrByHand) || text != nil || cfg == nil || len(cfg.Users) != 2 {
			t.Errorf("%s: %v, %s, %+v", tt.file, err, text, cfg)
		}
		if lines := UserLines(file, newUser(dir)); lines != tt.lines {
			t.Errorf("%s: %s", tt.file, lines)
		}
		if strings.HasSuffix(tt.text, "...\n") {
			continue // before that a user can go
		}
		text, u, err := WithoutUser(file, []byte(tt.text), "alice")
		if !errors.Is(err, ErrByHand) || text != nil || u.File != filepath.Join(dir, "alice.totp") || !strings.HasPrefix(err.Error(), file+tt.line+": users[0]: ") {
			t.Errorf("%s: %v, %s, %v", tt.file, err, text, u)
		}
	}
}

func TestAnEditQuotesPathsThatNeedIt(t *testing.T) {
	u := newUser("/srv/a, b: {c} # 'd'")
	text, cfg, err := WithUser("/etc/w.yaml", []byte(base), u)
	if err != nil || cfg.Users[0].File != u.File {
		t.Errorf("%v, %v\n%s", cfg, err, text)
	}
}

// Whatever an edit makes of a file, it is right, has that user more or less, and
// is the old file with some lines put in or taken out.
func FuzzEditUsers(f *testing.F) {
	dir := usersDir(f)
	file := filepath.Join(dir, "w.yaml")
	item := func(name string) string { return fmt.Sprintf("  - {name: %s, totp_file: %s.totp}\n", name, name) }
	f.Add(base)
	f.Add(base + "users:\n" + item("alice") + item("bob") + "\n# end\nlog: {level: info}\n")
	f.Add("users:\n  # one\n" + item("alice") + "  -\n    name: bob\n    totp_file: bob.totp\n" + base)
	f.Add(strings.ReplaceAll(base+"users:\n"+item("alice"), "\n", "\r\n"))
	f.Add(base + "    message: |+\n      hello\n\n")
	f.Add(base + "users: [" + item("alice")[4:] + "]\n")
	f.Add(base + "users:\n" + item("alice") + "...\n--- {}\n")
	f.Fuzz(func(t *testing.T, text string) {
		inserted, _, err := WithUser(file, []byte(text), newUser(dir))
		if err == nil {
			if err := os.WriteFile(filepath.Join(dir, "new.totp"), []byte(rfcSecret[5:]+"BBBBB"), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := Parse(file, inserted)
			if err != nil || !slices.ContainsFunc(cfg.Users, func(u User) bool { return u.Name == "new" }) {
				t.Errorf("%v, %v of\n%s", cfg, err, inserted)
			}
			os.Remove(filepath.Join(dir, "new.totp"))
			onlyLinesMore(t, text, string(inserted))
		}
		before, err := Parse(file, []byte(text))
		if err != nil {
			return
		}
		for _, u := range before.Users {
			cut, _, err := WithoutUser(file, []byte(text), u.Name)
			if err != nil {
				continue
			}
			after, err := Parse(file, cut)
			if err != nil || len(after.Users) != len(before.Users)-1 {
				t.Errorf("%v, %v of\n%s", after, err, cut)
			}
			onlyLinesMore(t, string(cut), text)
		}
	})
}

// onlyLinesMore checks that long is short with text put in at one place.
func onlyLinesMore(t *testing.T, short, long string) {
	t.Helper()
	same := 0
	for same < len(short) && same < len(long) && short[same] == long[same] {
		same++
	}
	if !strings.HasSuffix(long, short[same:]) || len(long) < len(short) {
		t.Errorf("more has changed from\n%q\nto\n%q", short, long)
	}
}
