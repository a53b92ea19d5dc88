package front

import (
	"encoding/base32"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"webknock/httpd"
	"webknock/internal/onetime"
	"webknock/internal/onetime/onetimetest"
)

// onetimers starts shards with users and a verifier in a directory of its own. A
// word of knock's is a path; {NAME} in it stands for the user's code of now,
// {wrong} for nobody's, and a word that begins with @ is a client, that the rest
// comes from.
func onetimers(t *testing.T, sequences string, names ...string) (all *shards, knocks func(words string) string) {
	t.Helper()
	dir := t.TempDir()
	text := "listeners: [{address: ':1'}]\ndoors: [{name: ssh, ports: [22/tcp]}]\nusers:\n"
	secrets := map[string]string{}
	for _, name := range names {
		secrets[name] = base32.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%-20s", name)))
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(secrets[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("  - {name: %s, totp_file: %s}\n", name, file)
	}
	cfg := parse(t, text+sequences)
	r, err := newRules(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	verifier := onetime.New(onetimetest.NewMemory(), slog.New(slog.DiscardHandler))
	verifier.Configure(oneTimeUsers(cfg.Users))
	all, completed := watched(t, r, verifier)
	return all, func(words string) string {
		before := len(completed())
		client := "192.0.2.1"
		now := time.Now()
		good := map[string]bool{}
		for _, secret := range secrets {
			for off := -2; off <= 2; off++ {
				code, err := totp.GenerateCode(secret, now.Add(time.Duration(off)*30*time.Second))
				if err != nil {
					t.Fatal(err)
				}
				good[code] = true
			}
		}
		wrong := "000000"
		for i := 1; good[wrong]; i++ {
			wrong = fmt.Sprintf("%06d", i)
		}
		for _, word := range strings.Fields(words) {
			if c, ok := strings.CutPrefix(word, "@"); ok {
				client = c
				completed() // other clients' knocks are read
				continue
			}
			site := strings.HasSuffix(word, "*")
			word = strings.ReplaceAll(word, "{wrong}", wrong)
			for _, name := range names {
				for variable, at := range map[string]time.Time{"{" + name + "}": now, "{" + name + "+1}": now.Add(30 * time.Second)} {
					code, err := totp.GenerateCode(secrets[name], at)
					if err != nil {
						t.Fatal(err)
					}
					word = strings.ReplaceAll(word, variable, code)
				}
			}
			l := httpd.NewKnock(netip.MustParseAddr(client), now, []byte("GET "+strings.TrimSuffix(word, "*")+" HTTP/1.1\r\nHost: h\r\n\r\n"))
			l.ToSite = site
			all.post(l)
		}
		return strings.Join(completed()[before:], ", ")
	}
}

func TestSequencesWithOneTimeSteps(t *testing.T) {
	const sequences = `
sequences:
  - {name: first, steps: ["/f/{totp}", /b], message: x}
  - {name: middle, steps: [/a, "/m/{totp}", /b], message: x}
  - {name: twice, steps: ["/t/{totp}", "/t/{totp}"], message: x}
  - {name: anns, steps: [/a, "/u/{totp}"], users: [ann], message: x}
  - {name: overlap, steps: [{regex: ^/o/}, "/o/{totp}", /b], message: x}
`
	for _, tt := range []struct{ name, knocks, want string }{
		{"a code and a plain step", "/f/{ann} /b", "first by ann"},
		{"in the middle", "/a /m/{bob} /b", "middle by bob"},
		{"a wrong code starts over", "/a /m/000000x /m/{bob} /b", ""},
		{"the same client repeats the code", "/a /m/{bob} /m/{bob} /b", "middle by bob"},
		{"and of the first step", "/f/{ann} /f/{ann} /b", "first by ann"},
		{"while the next run goes on", "/a /m/{ann} /b /a /m/{ann} /m/{bob} /b", "middle by ann, middle by bob"},
		{"a page that reloads itself after the end", "/f/{ann} /b /f/{bob} /f/{ann} /f/{ann} /b", "first by ann, first by bob"},
		{"at another step's place", "/f/{ann} /b /a /m/{ann} /m/{bob} /b", "first by ann, middle by bob"},
		{"ten times over", "/f/{ann} /f/{ann} /f/{ann} /f/{ann} /f/{ann} /f/{ann} /f/{ann} /f/{ann} /f/{ann} /f/{ann} /b", "first by ann"},
		{"six times after the end and then another", "/f/{ann} /b /f/{ann} /x /f/{ann} /x /f/{ann} /x /f/{ann} /x /f/{ann} /x /f/{ann} /f/{bob} /b", "first by ann, first by bob"},
		{"a wrong code ten times is one", "/f/1 /f/1 /f/1 /f/1 /f/1 /f/1 /f/1 /f/1 /f/1 /f/1 /f/{ann} /b", "first by ann"},
		{"but not with another between", "/f/1 /x /f/1 /x /f/1 /x /f/1 /x /f/1 /f/{ann} /b", ""},
		{"nor does another's code become one's own", "/f/{ann} /b @192.0.2.2 /f/{ann} /f/{bob} /f/{ann} /b", "first by ann"},
		{"a session is sent again", "/f/{ann} /b /f/{ann} /b", "first by ann"},
		{"from elsewhere", "/f/{ann} @192.0.2.2 /f/{ann} /b", ""},
		{"while the run goes on", "/a /m/{bob} @192.0.2.2 /a /m/{bob} /b @192.0.2.1 /b", "middle by bob"},
		{"one code is not two steps", "/t/{ann} /t/{ann}", ""},
		{"nor is it at the third time", "/t/{ann} /t/{ann} /t/{ann}", ""},
		{"two codes are", "/t/{ann} /t/{ann+1}", "twice by ann"},
		{"of one user", "/t/{ann} /t/{bob+1}", ""},
		{"an older code is no second", "/t/{ann+1} /t/{ann}", ""},
		{"a code of another step is used", "/f/{ann} /b /a /m/{ann} /b", "first by ann"},
		{"a user that is not admitted", "/a /u/{bob}", ""},
		{"whose code is used up", "/a /u/{bob} /f/{bob} /b", ""},
		{"one that is", "/a /u/{ann}", "anns by ann"},
		{"who has not begun uses up nothing", "/m/{ann} /u/{ann} @192.0.2.2 /a /u/{ann}", "anns by ann"},
		{"nor who is at another step", "/f/{bob} /m/{ann} @192.0.2.2 /a /m/{ann} /b", "middle by ann"},
		{"a code that a regex matches as well", "/o/x /o/{ann} /b", "overlap by ann"},
		{"and again after it has opened", "/o/x /o/{ann} /b /o/x /o/{ann} /b", "overlap by ann"},
		{"five wrong codes", "/f/1 /f/2 /f/3 /f/4 /f/5 /f/{ann} /b @192.0.2.2 /f/{ann} /b", "first by ann"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, knocks := onetimers(t, sequences, "ann", "bob")
			if got := knocks(tt.knocks); got != tt.want {
				t.Errorf("%s completes %q, want %q", tt.knocks, got, tt.want)
			}
		})
	}
}

func TestOnlyWrongCodesCountForBansUnderACoverThatAnswers(t *testing.T) {
	const sequences = `
sequences: [{name: s, steps: ["/f/{totp}", /b], message: x}]
shield: {ban: {knocks: 3, within: 1m, for: 1m}}
`
	for knocks, want := range map[string]string{
		"/1* /2* /3* /4*":                                                 "",
		"/f/{wrong}?1* /f/{wrong}?2* /f/{wrong}*":                         "banned 192.0.2.1",
		"/f/{wrong}* /x* /f/{wrong}* /y* /f/{wrong}*":                     "banned 192.0.2.1",
		"/f/{wrong}* /x* /f/{wrong}* /y*":                                 "",
		"/f/{wrong}* /f/{wrong}* /f/{wrong}* /f/{wrong}*":                 "", // sent again
		"/f/{wrong}* /f/{wrong}?2* /f/{ann}*":                             "",
		"/f/{ann}* /b* /f/{ann}* /x* /f/{ann}* /y* /f/{ann}* /f/{wrong}*": "s by ann", // a page that reloads itself
		"/f/1* /f/about* /f/1234567* /f/12345x*":                          "",         // pages
	} {
		_, knock := onetimers(t, sequences, "ann")
		if got := knock(knocks); got != want {
			t.Errorf("%s: %q, want %q", knocks, got, want)
		}
	}
}

func TestOnlyWrongCodesAreCounted(t *testing.T) {
	all, knocks := onetimers(t, `sequences: [{name: s, steps: [/a, "/f/{totp}", /b], message: x}]`, "ann")
	for _, tt := range []struct {
		words string
		want  uint64
	}{
		{"@192.0.2.1 /f/1 /a /x", 0}, // nobody has looked
		{"@192.0.2.2 /a /f/1 /a /f/2 /f/3", 2},
		{"@192.0.2.3 /a /f/{ann} /f/{ann} /b", 0},
		{"@192.0.2.4 /a /f/{ann} /a /f/{ann}", 2}, // they are used
	} {
		before := all.wrong.Load()
		knocks(tt.words)
		if got := all.wrong.Load() - before; got != tt.want {
			t.Errorf("%s: %d, want %d", tt.words, got, tt.want)
		}
	}
}

func TestUsedCodesAreBoundedAndForgotten(t *testing.T) {
	now := time.Now()
	u := usedCodes{}
	code := func(i int) usedCode { return usedCode{netip.MustParseAddr("192.0.2.1"), fmt.Sprint(i)} }
	for i := range maxUsed {
		u.add(code(i), use{now, now.Add(time.Minute)}, now)
	}
	if len(u) != maxUsed {
		t.Fatalf("%d are remembered", len(u))
	}
	u.add(code(maxUsed), use{now, now.Add(time.Minute)}, now)
	if len(u) != 1 {
		t.Errorf("%d are remembered beyond the bound", len(u))
	}
	for i := range maxUsed {
		u.add(code(i), use{now, now.Add(time.Duration(i) * time.Second)}, now)
	}
	u.add(code(-1), use{now, now.Add(time.Hour)}, now.Add(time.Hour))
	if len(u) != 1 {
		t.Errorf("%d that are no longer good are remembered", len(u)-1)
	}
}

func TestAWrongCodeThatIsSentAgainCountsOnce(t *testing.T) {
	for _, tt := range []struct {
		name, knocks string
		want         uint64
	}{
		{"the same request", "/f/1 +9s /f/1 +9s /f/1", 1},
		{"ten seconds later", "/f/1 +10.001s /f/1", 2},
		{"after another however late", "/f/1 +9s /f/1 +9s /x +1s /f/1", 2},
		{"a good one of the same client", "/f/{ann+1} +9s /x +9s /f/{ann+1}", 0},
		{"one that is good no longer", "/f/{ann+1} +91s /f/{ann+1}", 1},
		{"one that is good no longer just now", "/f/{ann+1} +25s /f/{ann+1} +9s /f/{ann+1} +9s /f/{ann+1} +9s /f/{ann+1} +9s /f/{ann+1} +9s /f/{ann+1} +9s /f/{ann+1} +9s /f/{ann+1}", 0},
		{"after a restart", "/f/{ann+1} restart /f/{ann+1}", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, _ := onetimers(t, `sequences: [{name: s, steps: ["/f/{totp}", /b], message: x}]`, "ann")
			var wrong uint64
			at := time.Now()
			code, err := totp.GenerateCode(base32.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%-20s", "ann"))), at.Add(30*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			s := newShards(100, all.rules.Load(), all.verifier, func(completion) {}, nil).shards[0]
			for _, word := range strings.Fields(strings.ReplaceAll(tt.knocks, "{ann+1}", code)) {
				if after, ok := strings.CutPrefix(word, "+"); ok {
					d, err := time.ParseDuration(after)
					if err != nil {
						t.Fatal(err)
					}
					at = at.Add(d)
				} else if word == "restart" {
					wrong += s.all.wrong.Load()
					s = newShards(100, all.rules.Load(), all.verifier, func(completion) {}, nil).shards[0]
				} else {
					s.read(httpd.NewKnock(netip.MustParseAddr("192.0.2.1"), at, []byte("GET "+word+" HTTP/1.1\r\nHost: h\r\n\r\n")))
				}
			}
			if wrong += s.all.wrong.Load(); wrong != tt.want {
				t.Errorf("%s: %d wrong, want %d", tt.knocks, wrong, tt.want)
			}
		})
	}
}
