package keeper

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"webknock/internal/event"
)

// Who subscribes to knocks gets those that come from then on.
func TestKnocksReachWhoSubscribesToThem(t *testing.T) {
	_, path, stop := dryRun(t, 0)
	stop()
	start, err := Choose(path, false, true)
	if err != nil {
		t.Fatal(err)
	}
	k := New(Options{ConfigFile: path, Start: start, Socket: filepath.Join(t.TempDir(), "s"), DryRun: true, Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Front: newFront})
	defer k.Stop()
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
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
