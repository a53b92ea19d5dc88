package front

import (
	"encoding/base32"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/hotp"
	"pgregory.net/rapid"

	"webknock/httpd"
	"webknock/internal/onetime"
	"webknock/internal/onetime/onetimetest"
)

// The sequences that the definition is tried on. Each has its steps as paths, in
// which # stands for a code.
var defined = []struct {
	name   string
	steps  []string
	strict bool
	ignore string
}{
	{"plain", []string{"/a", "/b"}, true, "/i"},
	{"twice", []string{"/a", "/a", "/c"}, true, "/i"},
	{"middle", []string{"/a", "/k/#", "/b"}, true, "/c"},
	{"first", []string{"/f/#", "/c"}, false, "/i"},
	{"last", []string{"/c", "/l/#"}, true, "/i"},
	{"two", []string{"/f/#", "/l/#"}, true, "/i"},
}

const definedWithin = 10 * time.Second

// A request is what a client sends in a trial of the definition.
type request struct {
	client   string
	path     string // with # for the code
	code     string
	prefetch bool
	at       time.Duration
}

func (r request) target() string { return strings.ReplaceAll(r.path, "#", r.code) }

// A past is one client's requests that count in one sequence since its last
// completion.
type past []struct {
	steps uint32
	at    time.Duration
}

// completes applies the definition, word by word, to the knocks that are not struck
// out.
func (p past) completes(steps int) bool {
	for begin := range p {
		if p[begin:].fits(steps, 0, p[begin].at) {
			return true
		}
	}
	return false
}

func (p past) fits(steps, step int, first time.Duration) bool {
	switch {
	case p[0].steps&(1<<step) == 0:
		return false
	case step == steps-1:
		return len(p) == 1 // the last step comes once
	case len(p) == 1:
		return false
	}
	return p[1].at-first <= definedWithin && p[1:].fits(steps, step+1, p[1].at) || p[1:].fits(steps, step, first)
}

// reaches reports whether a knock at a step now, and at once those at all later ones,
// would complete.
func (p past) reaches(steps, step int, now time.Duration) bool {
	run := append(past(nil), p...)
	for ; step < steps; step++ {
		run = append(run, past{{1 << step, now}}...)
	}
	return run.completes(steps)
}

// An oracle applies the documents to all that has been requested: which sequences
// complete, which codes are wrong, and who is banned.
type oracle struct {
	t        *rapid.T
	ban      int
	user     string // base32
	start    time.Time
	counter  int64 // of the latest code that was used
	pasts    map[string]map[string]past
	previous map[string]request
	used     map[string]map[string]time.Time // until when each would be good, by client
	wrong    map[string]struct {
		codes int
		since time.Duration
	}
	knocks map[string]struct {
		count int
		since time.Duration
	}
	events []string
}

// good returns the counter that a code stands for, and whether it is good.
func (o *oracle) good(code string, at time.Duration) (counter int64, ok bool) {
	now := o.start.Add(at).Unix() / 30
	for c := now - 1; c <= now+1; c++ {
		if text, _ := hotp.GenerateCode(o.user, uint64(c)); text == code && c > o.counter {
			return c, true
		}
	}
	return 0, false
}

func (o *oracle) knock(r request) {
	previous, known := o.previous[r.client]
	again := known && previous.target() == r.target() && previous.prefetch == r.prefetch && r.at-previous.at <= definedWithin
	o.previous[r.client] = r
	if r.prefetch {
		return
	}
	if until, used := o.used[r.client][r.code]; used && strings.Contains(r.path, "#") && !o.start.Add(r.at).After(until) {
		return
	}
	if o.pasts[r.client] == nil {
		o.pasts[r.client], o.used[r.client] = map[string]past{}, map[string]time.Time{}
	}
	pasts := o.pasts[r.client]

	// A code is looked at if some sequence has reached its step, and then for all of
	// them.
	matched, looked := map[string]uint32{}, false
	passed := false
	for _, s := range defined {
		for i, step := range s.steps {
			if step != r.path || r.path == s.ignore {
				continue
			}
			if !strings.Contains(step, "#") {
				matched[s.name] |= 1 << i
			} else if pasts[s.name].reaches(len(s.steps), i, r.at) {
				looked = true
			}
		}
	}
	if looked {
		w := o.wrong[r.client]
		limited := w.codes >= 5 && r.at-w.since <= time.Minute
		counter, ok := o.good(r.code, r.at)
		passed = ok && !limited
		if passed {
			o.counter = counter
			o.used[r.client][r.code] = time.Unix((counter+2)*30, 0)
			for _, s := range defined {
				for i, step := range s.steps {
					if step == r.path && pasts[s.name].reaches(len(s.steps), i, r.at) {
						matched[s.name] |= 1 << i
					}
				}
			}
		}
		if !passed && !again {
			o.events = append(o.events, "wrong")
			if !limited {
				if r.at-w.since > time.Minute || w.codes == 0 {
					w.codes, w.since = 0, r.at
				}
				w.codes++
				o.wrong[r.client] = w
			}
		}
	}
	completed, counts := false, false
	for _, s := range defined {
		if r.path == s.ignore {
			continue
		}
		counts = true
		if matched[s.name] == 0 && !s.strict {
			continue
		}
		p := append(pasts[s.name], past{{matched[s.name], r.at}}...)
		if p.completes(len(s.steps)) {
			completed = true
			o.events = append(o.events, "completed "+s.name)
			p = nil
		}
		pasts[s.name] = p
	}
	k := o.knocks[r.client]
	switch {
	case o.ban == 0 || !counts:
		return
	case completed:
		k.count = 0
	case !again:
		if k.count == 0 || r.at-k.since > time.Minute {
			k.count, k.since = 0, r.at
		}
		if k.count++; k.count == o.ban {
			o.events = append(o.events, "banned")
			k.count = 0
		}
	}
	o.knocks[r.client] = k
}

// Whatever clients send, what a shard makes of it is what the documents say, applied
// by brute force to all of it: with codes of others and of one's own, prefetches,
// requests sent again, wrong codes and bans.
func TestShardsAgreeWithTheDefinition(t *testing.T) {
	secret := base32.StdEncoding.EncodeToString([]byte("a secret of this one"))
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "webknock-test-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "ann")
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		o := &oracle{
			t: t, user: secret, start: time.Now(), pasts: map[string]map[string]past{}, previous: map[string]request{}, used: map[string]map[string]time.Time{},
			wrong: map[string]struct {
				codes int
				since time.Duration
			}{},
			knocks: map[string]struct {
				count int
				since time.Duration
			}{},
		}
		text := "listeners: [{address: ':1'}]\nusers: [{name: ann, totp_file: " + file + "}]\ndoors: [{name: ssh, ports: [22/tcp]}]\nsequences:\n"
		for _, s := range defined {
			var steps []string
			for _, step := range s.steps {
				steps = append(steps, fmt.Sprintf("%q", strings.ReplaceAll(step, "#", "{totp}")))
			}
			text += fmt.Sprintf("  - {name: %s, steps: [%s], strict: %v, ignore: [%s], message: x}\n", s.name, strings.Join(steps, ", "), s.strict, s.ignore)
		}
		if rapid.Bool().Draw(t, "bans") {
			o.ban = 4
			text += "shield: {ban: {knocks: 4}}\n"
		}
		cfg := parse(t, text)
		r, err := newRules(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		verifier := onetime.New(onetimetest.NewMemory(), slog.New(slog.DiscardHandler))
		verifier.Configure(oneTimeUsers(cfg.Users))
		var events []string
		all := newShards(100, r, verifier, func(c completion) { events = append(events, "completed "+c.sequence.Name) },
			func(httpd.Knock, string) { events = append(events, "banned") })
		all.origin = o.start
		s := all.shards[0]

		gaps := []time.Duration{0, 0, 0, 1001 * time.Millisecond, 3010 * time.Millisecond, 9100 * time.Millisecond, 11 * time.Second, 40 * time.Second}
		paths := []string{"/a", "/a", "/b", "/c", "/k/#", "/k/#", "/f/#", "/l/#", "/i", "/x"}
		var at time.Duration
		var last request
		for range rapid.IntRange(1, 30).Draw(t, "requests") {
			at += rapid.SampledFrom(gaps).Draw(t, "gap")
			req := last
			if last.path == "" || rapid.IntRange(0, 3).Draw(t, "again") > 0 {
				req = request{client: rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.1", "192.0.2.2"}).Draw(t, "client"), path: rapid.SampledFrom(paths).Draw(t, "path")}
				req.code = "12345" // nobody's
				if d := rapid.IntRange(-1, 2).Draw(t, "code"); d < 2 {
					if req.code, err = hotp.GenerateCode(secret, uint64(o.start.Add(at).Unix()/30+int64(d))); err != nil {
						t.Fatal(err)
					}
				}
				req.prefetch = rapid.IntRange(0, 9).Draw(t, "prefetch") == 9
			}
			req.at = at
			last = req
			head := "GET " + req.target() + " HTTP/1.1\r\nHost: h\r\n"
			if req.prefetch {
				head += "Sec-Purpose: prefetch\r\n"
			}
			o.events, events = nil, nil
			wrong := all.wrong.Load()
			o.knock(req)
			s.read(httpd.NewKnock(netip.MustParseAddr(req.client), o.start.Add(at), []byte(head+"\r\n")))
			if all.wrong.Load() > wrong {
				events = append(events, "wrong")
			}
			slices.Sort(events) // one knock may complete several sequences
			slices.Sort(o.events)
			if !slices.Equal(events, o.events) {
				t.Fatalf("%v from %s at %v (prefetch %v): %q, by the definition %q", req.target(), req.client, at, req.prefetch, events, o.events)
			}
		}
	})
}
