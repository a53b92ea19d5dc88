package notice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a service of which the test decides.
type fake struct {
	mu   sync.Mutex
	sent []string // "1m0s text", the time since the first
	from time.Time
	do   func(attempt int) error
}

func (f *fake) send(text string) error {
	f.mu.Lock()
	f.sent = append(f.sent, fmt.Sprint(time.Since(f.from).Round(time.Second), " ", text))
	attempt := len(f.sent)
	f.mu.Unlock()
	if f.do == nil {
		return nil
	}
	return f.do(attempt)
}

// texts returns what has been sent, or tried.
func (f *fake) texts() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sent)
}

const secretURL = "ntfy://h/s3cret"

// sending starts a sender in a bubble with one target that wants all events.
func sending(t *testing.T, do func(attempt int) error) (s *Sender, f *fake, log *bytes.Buffer, stop func()) {
	t.Helper()
	f, log = &fake{do: do, from: time.Now()}, new(bytes.Buffer)
	s = NewSender(slog.New(slog.NewTextHandler(log, nil)))
	s.host = "h"
	s.open = func(url, host string) (service, error) {
		if url != secretURL {
			t.Errorf("opened %s", url)
		}
		return f, nil
	}
	short, err := ParseTemplate("{{.Event}} {{.Client}}{{with .More}} +{{.}}{{end}}", []Event{Ban})
	if err != nil {
		t.Fatal(err)
	}
	s.Use([]Target{{Place: "notify[0]", URL: secretURL, Service: "ntfy", Events: []Event{Completion, Repair, Ban, Degraded}, Template: short}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	return s, f, log, func() { cancel(); <-done }
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOnlySubscribedTargetsGetANotice(t *testing.T) {
	target := Target{Events: []Event{Completion, Grant}, Sequence: "ssh"}
	all := Target{Events: []Event{Repair, Grant}}
	for _, tt := range []struct {
		n           Notice
		target, all bool
	}{
		{Notice{Event: Completion, Sequence: "ssh"}, true, false},
		{Notice{Event: Completion, Sequence: "web"}, false, false},
		{Notice{Event: Grant, Sequence: "ssh"}, true, true},
		{Notice{Event: Grant}, false, true}, // by an administrator
		{Notice{Event: Repair}, false, true},
	} {
		if target.hears(tt.n) != tt.target || all.hears(tt.n) != tt.all {
			t.Errorf("%+v: %v, %v", tt.n, target.hears(tt.n), all.hears(tt.n))
		}
	}
}

func TestANoticeThatFailsIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, log, stop := sending(t, func(attempt int) error {
			if attempt < 3 {
				return errors.New("not now")
			}
			return nil
		})
		s.Send(Notice{Event: Completion, Client: "a"})
		s.Send(Notice{Event: Completion, Client: "b"})
		time.Sleep(10 * time.Second) // of the bubble
		synctest.Wait()
		if got := f.texts(); len(got) != 4 || !strings.HasSuffix(got[2], " a") || !strings.HasSuffix(got[3], " b") {
			t.Errorf("sent %q", got)
		}
		stop()
		if log.Len() > 0 {
			t.Errorf("logged %s", log)
		}
	})
}

func TestANoticeThatFailsForLongIsDroppedAndLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, log, stop := sending(t, func(int) error { return errors.New("Post " + secretURL + ": 502 Bad Gateway") })
		s.Send(Notice{Event: Completion, Client: "a"})
		time.Sleep(giveUp)
		synctest.Wait()
		if n := len(f.texts()); n < 10 || n > 30 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		stop()
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=ERROR") || strings.Contains(got, "s3cret") ||
			!strings.Contains(got, `notify=notify[0] service=ntfy event=completion reason="its server answers 502 Bad Gateway"`) {
			t.Errorf("logged %s", got)
		}
	})
}

// An attempt that never ends holds up neither those that follow nor, in the
// end, the stop; and there are never many of it.
func TestAHangingServiceDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s, f, log, stop := sending(t, func(int) error { <-release; return nil })
		s.Send(Notice{Event: Completion, Client: "a"})
		s.Send(Notice{Event: Completion, Client: "b"})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := len(f.texts()); n != maxHanging {
			t.Errorf("%d attempts at once", n)
		}
		close(release)
		time.Sleep(2 * maxRetry)
		synctest.Wait()
		if got := f.texts(); len(got) != maxHanging+2 || !strings.HasSuffix(got[maxHanging+1], " b") {
			t.Errorf("sent %q", got)
		}
		stop()
		if log.Len() > 0 {
			t.Errorf("logged %s", log)
		}
	})
}

func TestManyBansAreOneNoticeAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, _, stop := sending(t, nil)
		for i := range 10 {
			s.Send(Notice{Event: Ban, Client: fmt.Sprint(i)})
		}
		s.Send(Notice{Event: Degraded, Client: "too"}) // an event of another kind
		s.Send(Notice{Event: Completion, Client: "a"})
		s.Send(Notice{Event: Completion, Client: "b"})
		time.Sleep(90 * time.Second)
		s.Send(Notice{Event: Ban, Client: "10"})
		time.Sleep(5 * time.Minute)
		s.Send(Notice{Event: Ban, Client: "11"})
		synctest.Wait()
		want(t, f.texts(), "0s ban 0", "0s degraded too", "0s completion a", "0s completion b", "1m0s ban 9 +8", "2m0s ban 10", "6m30s ban 11")
		s.Send(Notice{Event: Ban, Client: "12"})
		stop()
		if got := f.texts(); got[len(got)-1] != "6m30s ban 12" {
			t.Errorf("what was held is not sent at the end: %q", got)
		}
	})
}

func TestAFullQueueLosesNoticesAndCountsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s, f, _, stop := sending(t, func(int) error { <-release; return nil })
		s.Send(Notice{Event: Completion})
		synctest.Wait() // it is being sent
		for range queueSize + 3 {
			s.Send(Notice{Event: Completion})
		}
		if n := s.Lost(); n != 3 {
			t.Errorf("%d lost, want 3", n)
		}
		close(release)
		synctest.Wait()
		if n := len(f.texts()); n != queueSize+1 {
			t.Errorf("%d sent", n)
		}
		stop()
	})
}

func TestWaitingNoticesAreTriedOnceWhenTheSenderStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, log, stop := sending(t, func(attempt int) error {
			if attempt == 3 {
				return nil
			}
			return errors.New("not now")
		})
		for _, client := range []string{"a", "b", "c"} {
			s.Send(Notice{Event: Completion, Client: client})
		}
		synctest.Wait()
		stop()
		want(t, f.texts(), "0s completion a", "0s completion a", "0s completion b", "0s completion c")
		if strings.Count(log.String(), "notice not sent") != 2 {
			t.Errorf("logged %s", log)
		}
	})
}

func TestAStopDoesNotWaitForAHangingService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s, _, log, stop := sending(t, func(int) error { <-release; return nil })
		for range 3 {
			s.Send(Notice{Event: Completion})
		}
		began := time.Now()
		stop()
		if took := time.Since(began); took > lastChance {
			t.Errorf("it took %v", took)
		}
		if strings.Count(log.String(), "the daemon stops") != 2 || !strings.Contains(log.String(), "count=2") {
			t.Errorf("logged %s", log)
		}
		close(release)
	})
}

func TestWaitingNoticesForARemovedTargetAreStillSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s, f, _, stop := sending(t, func(int) error { <-release; return nil })
		s.Send(Notice{Event: Completion, Client: "a"})
		s.Send(Notice{Event: Completion, Client: "b"})
		s.Use(nil)
		s.Send(Notice{Event: Completion, Client: "c"})
		close(release)
		synctest.Wait()
		want(t, f.texts(), "0s completion a", "0s completion b")
		stop()
	})
}

func TestAServiceIsReopenedFromTimeToTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, _, stop := sending(t, nil)
		opened := 0
		s.open = func(string, string) (service, error) { opened++; return f, nil }
		for range 2*renewal + 1 {
			s.Send(Notice{Event: Completion})
			synctest.Wait()
		}
		if opened != 3 {
			t.Errorf("opened %d times", opened)
		}
		stop()
	})
}
