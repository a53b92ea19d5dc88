package keeper

import (
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"testing"

	"webknock/internal/event"
)

// started returns a keeper of a dry run, until the test ends.
func started(t *testing.T) *Keeper {
	t.Helper()
	_, path, stop := dryRun(t, 0)
	stop()
	start, err := Choose(path, false, true)
	if err != nil {
		t.Fatal(err)
	}
	k := New(Options{ConfigFile: path, Start: start, Socket: filepath.Join(t.TempDir(), "s"), DryRun: true, Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Front: newFront})
	t.Cleanup(func() { k.Stop() })
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAFrontCannotMakeTheIDsOfEventsBeginAnew(t *testing.T) {
	k := started(t)
	before := k.events.Last()
	k.Knocks(nil, math.MaxUint64)
	if after := k.events.Last(); after < before {
		t.Errorf("the latest ID is %d, before it was %d", after, before)
	}
	k.Knocks(nil, 7)
	if after := k.events.Last(); after < before+7 {
		t.Errorf("the latest ID is %d after 7 missed knocks, before them it was %d", after, before)
	}
}

// Who subscribes to knocks gets those that come from then on.
func TestKnocksReachWhoSubscribesToThem(t *testing.T) {
	k := started(t)
	listener := (*k.listeners.Load())[0]
	s := k.events.Subscribe(10, event.KindKnock)
	conn, err := net.Dial("tcp", listener.Bound.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /a HTTP/1.1\r\nHost: h\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	records, _, err := s.Next(t.Context())
	if err != nil || len(records) != 1 {
		t.Fatalf("%v, %v", records, err)
	}
	got := records[0].Event.(event.Knock)
	if got.Outcome != event.Matched || got.Listener != listener.Address || !records[0].Time.Equal(got.At) {
		t.Errorf("%+v", got)
	}
}
