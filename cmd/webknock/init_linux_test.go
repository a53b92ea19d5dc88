package main

import (
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"webknock/internal/setup"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What webknock init shows, by itself and as it has written.
func TestInitShowsWhatItWouldDo(t *testing.T) {
	at := func(address, program string) setup.Socket {
		return setup.Socket{Address: netip.MustParseAddrPort(address), Program: program}
	}
	came := setup.Session{Text: "x", Client: netip.MustParseAddrPort("192.0.2.7:4711"), Server: netip.MustParseAddrPort("192.0.2.1:2222")}
	ssh := []setup.Socket{at("0.0.0.0:2222", "sshd"), at("[::]:2222", "sshd")}
	for _, tt := range []struct {
		name   string
		facts  setup.Facts
		wishes setup.Wishes
		done   func(*initialisation)
	}{
		{name: "vps", facts: setup.Facts{SSH: ssh, Listening: ssh, Session: came, UFW: true, Systemd: true}, done: func(i *initialisation) {
			i.report.Commands = []string{"ufw allow 80/tcp"}
		}},
		{name: "site", facts: setup.Facts{SSH: ssh, Listening: append([]setup.Socket{at("[::]:443", "nginx")}, ssh...), Session: came, Docker: true, Systemd: true},
			wishes: setup.Wishes{Host: "home.example.org"}, done: func(i *initialisation) { i.report.Result = "written" }},
		{name: "user", facts: setup.Facts{SSH: ssh, Listening: ssh, Hostname: "vps", Firewalld: true, Zone: "public"}, wishes: setup.Wishes{User: "alice", Port: 8080}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := initialisation{app: &app{configFile: defaultConfig}, wishes: tt.wishes, trial: 2 * time.Minute, report: &initReport{Result: "planned", File: defaultConfig}}
			i.describe(&tt.facts)
			letters := strings.Split("abc", "")
			plan, err := setup.NewPlan(&tt.facts, tt.wishes, func() string { path := "/" + strings.Repeat(letters[0], 10); letters = letters[1:]; return path })
			if err != nil {
				t.Fatal(err)
			}
			text, cfg, user, err := i.compose(&plan)
			if err != nil {
				t.Fatal(err)
			}
			if err := i.client(&plan, cfg); err != nil {
				t.Fatal(err)
			}
			i.report.Config = string(text)
			if plan.Site != nil {
				i.report.Site = &site{plan.Site.Program, plan.Site.Snippet()}
			}
			if tt.done != nil {
				tt.done(&i)
			}
			i.next(&tt.facts)
			got := i.report.text(false)
			if user != nil { // it is random
				_, secret, _ := strings.Cut(i.report.Client.Profile, "secret: ")
				secret, _, _ = strings.Cut(secret, "\n")
				got = strings.ReplaceAll(got, secret, "SECRET")
			}
			golden := filepath.Join("testdata", "init", tt.name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read(t, golden); got != want {
				t.Errorf("%s differs (go test -update writes it anew):\n%s", golden, got)
			}
		})
	}
}

func TestOnlyCommentsAreNoConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "webknock.yaml")
	for _, tt := range []struct {
		text string
		want bool
	}{
		{read(t, "package/webknock.yaml"), false},
		{"", false},
		{"# one\n\n  # two\n", false},
		{"doors: []\n", true},
		{"{]", true},
	} {
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := hasKeys(file); err != nil || got != tt.want {
			t.Errorf("%q has keys: %v, %v", tt.text, got, err)
		}
	}
	if got, err := hasKeys(file + "x"); err != nil || got {
		t.Errorf("a file that is not there has keys: %v, %v", got, err)
	}
}

// Three paths together are not guessed: 128 bits at least.
func TestPathsAreLongEnough(t *testing.T) {
	if bits := 3 * 8 * pathBytes; bits < 128 {
		t.Errorf("%d bits", bits)
	}
}

// Only a session that has begun since shows that a knock opens the door.
func TestWhichSessionProvesAKnock(t *testing.T) {
	begun := trial{Session: "192.0.2.7 4711 192.0.2.1 22"}
	for text, want := range map[string]string{
		"192.0.2.7 4712 192.0.2.1 22": "",
		begun.Session:                 "this is the session in which webknock init ran",
		"":                            "this is no SSH session",
	} {
		err := begun.proves(setup.Session{Text: text})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if err := (trial{}).proves(setup.Session{}); err == nil {
		t.Error("two times no session prove something")
	}
}

// The integration tests run what a first start needs; here, that every line of the
// document is one that the program understands.
func TestTheCommandsOfTheFirstStart(t *testing.T) {
	seen := 0
	for n, block := range strings.Split(read(t, "../../docs/first-start.md"), "```") {
		if n%2 == 0 {
			continue
		}
		for line := range strings.Lines(block) {
			line, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "sudo "), " && ")
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "webknock" {
				continue
			}
			root := newRoot(io.Discard, io.Discard, false)
			c, rest, err := root.Find(words[1:])
			if err == nil && c == root {
				err = errors.New("no such command")
			}
			if err == nil {
				err = c.ParseFlags(rest)
			}
			if err == nil {
				err = c.ValidateArgs(c.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
			seen++
		}
	}
	if seen < 6 {
		t.Errorf("only %d commands found", seen)
	}
}
