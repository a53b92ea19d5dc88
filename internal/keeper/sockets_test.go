package keeper

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"webknock/config"
	"webknock/internal/seam"
)

func listening(addresses ...string) *config.Config {
	cfg := new(config.Config)
	for _, a := range addresses {
		cfg.Listeners = append(cfg.Listeners, config.Listener{Address: a})
	}
	return cfg
}

func reachable(l listener) bool {
	conn, err := net.DialTimeout("tcp", l.Bound.String(), time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestSocketsStayOverAReloadAndGoWithTheirListener(t *testing.T) {
	var s sockets
	first, err := s.prepare(t.Context(), listening("127.0.0.1:0", "127.0.0.2:0"))
	if err != nil {
		t.Fatal(err)
	}
	s.use()
	aborted, err := s.prepare(t.Context(), listening("127.0.0.1:0", "127.0.0.3:0"))
	if err != nil {
		t.Fatal(err)
	}
	if aborted[0].Bound != first[0].Bound {
		t.Errorf("a listener that stays moves from %v to %v", first[0].Bound, aborted[0].Bound)
	}
	s.abort()
	if !reachable(first[0]) || !reachable(first[1]) || reachable(aborted[1]) {
		t.Error("after an aborted reload other addresses are bound than before")
	}
	if _, err := s.prepare(t.Context(), listening("127.0.0.1:0")); err != nil {
		t.Fatal(err)
	}
	s.use()
	if !reachable(first[0]) || reachable(first[1]) {
		t.Error("after a reload other addresses are bound than those of the configuration")
	}
	s.close()
	if reachable(first[0]) {
		t.Error("bound after the end")
	}
	if _, err := s.prepare(t.Context(), listening("127.0.0.1:0")); !errors.Is(err, seam.ErrStopped) {
		t.Errorf("bound after the end: %v", err)
	}
}

func TestAnAddressThatCannotBeBoundBindsNone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var s sockets
	if _, err := s.prepare(t.Context(), listening("127.0.0.2:0", taken.Addr().String())); !errors.Is(err, syscall.EADDRINUSE) || len(s.prepared) > 0 {
		t.Errorf("%v, and %d are bound", err, len(s.prepared))
	}
	if err := s.canListen(t.Context(), taken.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a taken address: %v", err)
	}
	if err := s.canListen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Error(err)
	}
	if err := s.canListen(t.Context(), "systemd:web"); err == nil {
		t.Error("a socket that systemd has not handed over can be listened on")
	}
}

// An address whose last owner is about to end is waited for.
func TestAnAddressOfAnEndingProcessIsWaitedFor(t *testing.T) {
	ending, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(3*leftOverPause, func() { ending.Close() })
	var s sockets
	defer s.close()
	if _, err := s.prepare(t.Context(), listening(ending.Addr().String())); err != nil {
		t.Error(err)
	}
}
