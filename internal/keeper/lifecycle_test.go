package keeper

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"webknock/httpd/admin"
)

func TestPartsStopInReverseOrderAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		l := lifecycle{log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		l.onClose("first", func() error { order = append(order, "first"); return nil })
		l.background(ctx, "second", 0, func(ctx context.Context) {
			<-ctx.Done()
			order = append(order, "second")
		})
		l.onStop("third", 0, func(context.Context) error { order = append(order, "third"); return nil })
		cancel() // parts do not end with the context that they were started with
		synctest.Wait()
		if len(order) > 0 {
			t.Errorf("before the stop: %q", order)
		}
		l.stop()
		l.stop()
		if want := []string{"third", "second", "first"}; !slices.Equal(order, want) {
			t.Errorf("%q, want %q", order, want)
		}
	})
}

// Parts that hang take the time of a stop once, not once each, and leave notices
// and commands theirs.
func TestAStopHasOneDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := lifecycle{log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 2 {
			l.onStop("deaf", 0, func(context.Context) error { time.Sleep(time.Hour); return nil })
		}
		began := time.Now()
		closed := false
		l.onClose("socket", func() error { closed = true; return nil })
		var left time.Duration
		l.onStop("notices", 0, func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			<-ctx.Done()
			return ctx.Err()
		})
		for range 3 {
			l.onStop("hangs", keptForLast, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		}
		l.onStop("fails", keptForLast, func(context.Context) error { return errors.New("broken") })
		l.stop()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the stop took %v", took)
		}
		if left < time.Second {
			t.Errorf("%v was left for notices", left)
		}
		if !closed {
			t.Error("what comes after the deadline was not closed")
		}
		for part, count := range map[string]int{"part=deaf": 2, "part=hangs": 3, "part=notices": 1, "part=fails error=broken": 1, "part=socket": 0} {
			if n := strings.Count(log.String(), part); n != count {
				t.Errorf("%s is logged %d times, want %d:\n%s", part, n, count, &log)
			}
		}
		time.Sleep(2 * time.Hour) // the deaf ones return
	})
}

// stuckLog is a log that writes nothing until its channel is closed.
type stuckLog struct {
	slog.Handler
	until chan struct{}
}

func (stuckLog) Enabled(context.Context, slog.Level) bool { return true }

func (l stuckLog) Handle(context.Context, slog.Record) error {
	<-l.until
	return nil
}

func (l stuckLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func TestALogThatBlocksDelaysNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		k := New(Options{Log: slog.New(stuckLog{slog.DiscardHandler, stuck})})
		k.serving = true
		closed := false
		k.lifecycle.onClose("socket", func() error { closed = true; return nil })
		k.lifecycle.onStop("fails", 0, func(context.Context) error { return errors.New("broken") })
		began := time.Now()
		k.Stop()
		if took := time.Since(began); !closed || took > 2*time.Second {
			t.Errorf("closed %v after %v", closed, took)
		}
		close(stuck)
	})
}

func TestNothingIsReloadedAfterAStop(t *testing.T) {
	k := New(Options{Log: slog.New(slog.DiscardHandler)})
	k.Stop()
	k.Stop()
	err := k.Reload(t.Context(), admin.ReloadRequest{})
	var p *admin.Problem
	if !errors.As(err, &p) || p.Status != http.StatusServiceUnavailable || !strings.Contains(p.Detail, "stopping") {
		t.Errorf("%v", err)
	}
}
