package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// A connection that the front accepts does not wake the keeper.
func TestTheKeeperIsNotWokenByConnections(t *testing.T) {
	handed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := sockets{systemd: map[string][]net.Listener{"web": {handed}}}
	defer s.close()
	if _, err := s.prepare(t.Context(), listening("127.0.0.1:0", "systemd:web")); err != nil {
		t.Fatal(err)
	}
	ours := map[string]bool{}
	for _, at := range append(s.prepared, s.handed["web"]) {
		raw, err := at.File.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			ours[fmt.Sprint(fd)] = true
			if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("descriptor %d blocks: flags %x, %v", fd, flags, err)
			}
		})
	}
	if len(ours) != 3 {
		t.Fatalf("descriptors %v", ours)
	}
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	polled := 0
	for _, info := range infos {
		text, _ := os.ReadFile(info)
		for _, found := range regexp.MustCompile(`(?m)^tfd: +([0-9]+) `).FindAllStringSubmatch(string(text), -1) {
			polled++
			if ours[found[1]] {
				t.Errorf("descriptor %s is polled", found[1])
			}
		}
	}
	if polled == 0 {
		t.Error("nothing is polled: the test looks in the wrong place")
	}
	again, err := s.prepare(t.Context(), listening("systemd:web"))
	if err != nil || !reachable(again[0]) {
		t.Errorf("once more: %v", err)
	}
}
