package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"webknock/firewall"
	"webknock/internal/confine"
	"webknock/internal/event"
	"webknock/internal/seam"
)

// fake is a process that notes what it is told.
type fake struct {
	seam.Front // nil: what is not below is not asked
	keeper     seam.Keeper

	mu     sync.Mutex
	told   []string
	state  seam.State
	ended  chan struct{}
	once   sync.Once
	refuse string // what fails
	hangs  bool   // it answers no ping
}

func (p *fake) note(format string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	p.told = append(p.told, text)
	if p.refuse != "" && strings.HasPrefix(text, p.refuse) {
		return errors.New("refused: " + text)
	}
	return nil
}

func (p *fake) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.told, ", ")
}

func (p *fake) end() { p.once.Do(func() { close(p.ended) }) }

func (p *fake) Ended() <-chan struct{} { return p.ended }
func (p *fake) Err() error             { return errors.New("it has crashed") }
func (p *fake) Close()                 { p.note("close"); p.end() }
func (p *fake) Info() confine.Info     { return confine.Info{Name: "front", PID: 7} }

func (p *fake) Prepare(_ context.Context, c seam.Configuration, s []seam.Socket) error {
	return p.note("prepare %d with %d", c.Clients.Max, len(s))
}
func (p *fake) Commit(context.Context) error { return p.note("commit") }
func (p *fake) Abort()                       { p.note("abort") }
func (p *fake) UseCertificates(_ context.Context, address string, all []seam.Certificate) error {
	return p.note("certificates of %s: %s", address, all[0].Key)
}
func (p *fake) UseChallenges(_ context.Context, all []seam.Challenge) error {
	return p.note("%d challenges", len(all))
}
func (p *fake) WatchKnocks(on bool)          { p.note("watch %v", on) }
func (p *fake) AdoptBans(all []firewall.Ban) { p.note("%d bans", len(all)) }
func (p *fake) Unban(client netip.Prefix)    { p.note("unban %v", client) }
func (p *fake) Stop(context.Context) error   { return p.note("stop") }
func (p *fake) Ping(ctx context.Context) error {
	p.mu.Lock()
	hangs := p.hangs
	p.mu.Unlock()
	if !hangs {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ended:
		return errors.New("it has gone")
	}
}
func (p *fake) State() seam.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// lab is a supervised front whose processes are fakes.
type lab struct {
	*Front
	bans    []firewall.Ban
	guard   sync.Mutex // guards started while the clock runs
	started []*fake
	refuse  func(n int) (does string, start error) // what the n-th process fails at
	told    []string
}

func newLab(t *testing.T) *lab {
	l := new(lab)
	l.Front = New(Options{
		Start: func(_ seam.Configuration, k seam.Keeper, _ *slog.Logger) (Process, error) {
			p := &fake{keeper: k, ended: make(chan struct{})}
			if l.refuse != nil {
				does, err := l.refuse(len(l.started))
				if err != nil {
					return nil, err
				}
				p.refuse = does
			}
			l.guard.Lock()
			defer l.guard.Unlock()
			l.started = append(l.started, p)
			return p, nil
		},
		Tell: func(e event.FrontEnded) { l.told = append(l.told, e.Reason) }, Bans: func() []firewall.Ban { return l.bans }, Log: slog.New(slog.DiscardHandler),
	})
	return l
}

func (l *lab) count() int {
	l.guard.Lock()
	defer l.guard.Unlock()
	return len(l.started)
}

func configuration(max int, covers ...string) (c seam.Configuration) {
	c.Clients.Max = max
	for i, site := range covers {
		c.Listeners = append(c.Listeners, seam.ListenerOptions{Address: fmt.Sprint(":", i), Cover: seam.Cover{Proxy: site}})
	}
	return c
}

func (l *lab) put(t *testing.T, c seam.Configuration) {
	t.Helper()
	if err := l.Prepare(t.Context(), c, make([]seam.Socket, len(c.Listeners))); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustHear(t *testing.T, p *fake, want string) {
	t.Helper()
	if got := p.String(); got != want {
		t.Errorf("it was told: %s\nwant:        %s", got, want)
	}
}

func TestANewProcessGetsWhatTheEndedOneHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.Stop(context.Background())
		l.put(t, configuration(1, ""))
		l.put(t, configuration(2, "", ""))
		l.WatchKnocks(true)
		l.bans = make([]firewall.Ban, 2)
		l.AdoptBans(l.bans[:1])
		l.Unban(netip.MustParsePrefix("192.0.2.1/32"))
		if err := l.UseChallenges(t.Context(), make([]seam.Challenge, 3)); err != nil {
			t.Fatal(err)
		}
		mustHear(t, l.started[0], "prepare 1 with 1, 0 bans, 0 challenges, commit, prepare 2 with 2, commit, watch true, 1 bans, unban 192.0.2.1/32, 3 challenges")
		l.started[0].end()
		synctest.Wait()
		if len(l.started) != 2 || !slices.Equal(l.told, []string{"it has crashed"}) {
			t.Fatalf("%d processes, told %q", len(l.started), l.told)
		}
		mustHear(t, l.started[1], "prepare 2 with 2, 2 bans, 3 challenges, commit, watch true")
		if got := l.Processes(); len(got) != 1 || got[0].PID != 7 {
			t.Errorf("processes %+v", got)
		}
	})
}

// A process that hangs is ended, also while a reload waits for it.
func TestAProcessThatHangsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.Stop(context.Background())
		l.put(t, configuration(1))
		time.Sleep(time.Hour)
		if l.count() != 1 {
			t.Fatalf("%d processes were started, though the first answers", l.count())
		}
		first := l.started[0]
		first.mu.Lock()
		first.hangs = true
		first.mu.Unlock()
		time.Sleep(pingInterval + pingTries*pingTimeout + time.Second)
		if l.count() != 2 || !slices.Equal(l.told, []string{errHangs.Error()}) {
			t.Fatalf("%d processes, told %q", l.count(), l.told)
		}
		mustHear(t, l.started[1], "prepare 1 with 0, 0 bans, 0 challenges, commit")
	})
}

func TestCertificatesOfLaterOutliveAProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.Stop(context.Background())
		c := configuration(1, "")
		c.Listeners[0].TLS = &seam.TLS{Certificates: []seam.Certificate{{Key: []byte("old")}}}
		l.put(t, c)
		if err := l.UseCertificates(t.Context(), ":0", []seam.Certificate{{Key: []byte("new")}}); err != nil {
			t.Fatal(err)
		}
		if key := string(l.current.configuration.Listeners[0].TLS.Certificates[0].Key); key != "new" {
			t.Errorf("the next process gets the %s certificate", key)
		}
		if key := string(c.Listeners[0].TLS.Certificates[0].Key); key != "old" {
			t.Error("the keeper's configuration has changed")
		}
	})
}

// A process that crashes again and again is not started without end.
func TestTheTimeBetweenCrashesGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.Stop(context.Background())
		l.put(t, configuration(1))
		var waits []time.Duration
		for n := 1; n <= 9; n++ {
			since := time.Now()
			l.started[n-1].end()
			for l.count() == n {
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
			waits = append(waits, time.Since(since).Truncate(100*time.Millisecond))
		}
		if got := fmt.Sprint(waits); got != "[0s 100ms 200ms 400ms 800ms 1.6s 3.2s 6.4s 10s]" {
			t.Errorf("waits %s", got)
		}
		time.Sleep(aWhile)
		l.started[9].end()
		synctest.Wait()
		if len(l.started) != 11 {
			t.Error("after a long time without a crash it is not started at once")
		}
	})
}

func TestWhileNoProcessRunsTheStateSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.Stop(context.Background())
		l.refuse = func(n int) (string, error) {
			if n == 1 && time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) < time.Minute {
				return "", errors.New("no memory")
			}
			return "", nil
		}
		l.put(t, configuration(1))
		l.started[0].end()
		synctest.Wait()
		problems := strings.Join(l.State().Problems, "; ")
		if !strings.Contains(problems, "no knock is heard") || !strings.Contains(problems, "no memory") {
			t.Errorf("problems: %s", problems)
		}
		if err := l.Ping(t.Context()); err == nil {
			t.Error("the watchdog is fed")
		}
		if clients, err := l.Clients(t.Context()); clients != nil || err != nil {
			t.Errorf("clients %v, %v", clients, err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if problems := l.State().Problems; len(problems) > 0 || l.Ping(t.Context()) != nil {
			t.Errorf("problems after the start: %v", problems)
		}
		if len(l.told) != 1 {
			t.Errorf("told %q of one crash", l.told)
		}
	})
}

func TestCountsGoOnWhenOneProcessFollowsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.put(t, configuration(1))
		counting := func(n uint64) seam.State {
			return seam.State{
				Losses: []seam.Loss{{Kind: "knocks", Count: n}},
				Knocks: []seam.KnockCount{{Listener: ":0", Outcome: event.Missed, Count: 10 * n}},
			}
		}
		l.started[0].state = counting(3)
		l.State()
		l.started[0].end()
		synctest.Wait()
		for n := range uint64(3) {
			l.started[1].state = counting(n)
			s := l.State()
			if s.Losses[0].Count != 3+n || s.Knocks[0].Count != 30+10*n {
				t.Errorf("after %d more: %+v", n, s)
			}
		}
		l.started[1].state = counting(4) // while it stops
		if err := l.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := l.State(); s.Losses[0].Count != 7 || s.Knocks[0].Count != 70 {
			t.Errorf("in the end %+v", s)
		}
		mustHear(t, l.started[1], "prepare 1 with 0, 0 bans, 0 challenges, commit, stop, close")
	})
}

// What a process may do is decided when it starts: a site behind another cover needs
// another process.
func TestOtherNeedsAreAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.Stop(context.Background())
		l.put(t, configuration(1, "", "http://127.0.0.1:8081"))
		l.put(t, configuration(2, "http://127.0.0.2:8081"))
		if len(l.started) != 1 {
			t.Fatalf("%d processes for the same ports", len(l.started))
		}
		if err := l.Prepare(t.Context(), configuration(3, "https://home.example.org"), make([]seam.Socket, 1)); err != nil {
			t.Fatal(err)
		}
		l.Abort()
		if l.Processes() == nil || l.running.Load().Process != l.started[0] {
			t.Error("an aborted reload has changed the process")
		}
		mustHear(t, l.started[1], "prepare 3 with 1, close")
		l.put(t, configuration(4, "https://home.example.org"))
		synctest.Wait()
		mustHear(t, l.started[0], "prepare 1 with 2, 0 bans, 0 challenges, commit, prepare 2 with 1, commit, stop, close")
		mustHear(t, l.started[2], "prepare 4 with 1, 0 bans, 0 challenges, commit")
		if len(l.told) > 0 {
			t.Errorf("told %q", l.told)
		}
	})
}

func TestAReloadSurvivesTheEndOfTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.Stop(context.Background())
		l.refuse = func(n int) (string, error) { return map[int]string{0: "prepare 2", 1: ""}[n], nil }
		l.put(t, configuration(1))
		if err := l.Prepare(t.Context(), configuration(2), nil); err == nil {
			t.Error("what the process refuses is prepared")
		}
		if err := l.Commit(t.Context()); err == nil {
			t.Error("what was refused is committed")
		}
		if err := l.Prepare(t.Context(), configuration(3), nil); err != nil {
			t.Fatal(err)
		}
		l.started[0].end()
		synctest.Wait()
		if err := l.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		last := l.started[len(l.started)-1]
		if got := last.String(); !strings.HasPrefix(got, "prepare 3 with 0") || !strings.HasSuffix(got, "commit") {
			t.Errorf("the last of %d processes was told: %s", len(l.started), got)
		}
	})
}

func TestAfterAStopNothingIsStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.put(t, configuration(1))
		l.started[0].end() // at the same time
		if err := l.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(l.started); n > 2 || l.running.Load() != nil {
			t.Errorf("%d processes, %v runs", n, l.running.Load())
		}
		for name, err := range map[string]error{
			"prepare": l.Prepare(t.Context(), configuration(2), nil), "commit": l.Commit(t.Context()), "ping": l.Ping(t.Context()), "stop": l.Stop(t.Context()),
		} {
			if name != "stop" && err == nil || name == "stop" && err != nil {
				t.Errorf("%s after the stop: %v", name, err)
			}
		}
	})
}

func TestNeedsAreThePortsOfTheSites(t *testing.T) {
	n := NeedsOf(configuration(1, "", "http://127.0.0.1:8081", "https://home.example.org", "http://[::1]", "http://127.0.0.2:8081/"))
	if !slices.Equal(n.Connect, []uint16{80, 443, 8081}) || !n.Resolve {
		t.Errorf("%+v", n)
	}
	if n := NeedsOf(configuration(1, "", "http://127.0.0.1")); !slices.Equal(n.Connect, []uint16{80}) || n.Resolve {
		t.Errorf("%+v", n)
	}
}
