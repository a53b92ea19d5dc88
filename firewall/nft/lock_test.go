package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func mustLock(t *testing.T, table string) *Lock {
	t.Helper()
	l, err := LockTable(t.Context(), table, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestATableHasOneLock(t *testing.T) {
	l := mustLock(t, "alone")
	_, err := LockTable(t.Context(), "alone", slog.New(slog.DiscardHandler))
	if want := fmt.Sprintf("process %d (%s", os.Getpid(), os.Args[0]); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), want) {
		t.Errorf("a second lock: %v; want %q in it", err, want)
	}
	mustLock(t, "alone2")
	l.Close()
	mustLock(t, "alone")
}

func TestLockTableWaitsForAHolderThatIsStopping(t *testing.T) {
	first := mustLock(t, "fast")
	first.Stopping()
	got := make(chan error)
	go func() {
		second, err := LockTable(context.Background(), "fast", slog.New(slog.DiscardHandler))
		if err == nil {
			second.Close()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("LockTable did not wait: %v", err)
	case <-time.After(2 * lockGrace):
	}
	first.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// asNobody runs f on a thread whose user is nobody.
func asNobody(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with this goroutine
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			done <- errno
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// squat has the user nobody bind a name to a socket.
func squat(t *testing.T, name string, kind int, listens bool) {
	t.Helper()
	asNobody(t, func() error {
		fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name})
		if err == nil && listens {
			err = unix.Listen(fd, 0)
		}
		return err
	})
}

// Any user may bind any abstract name. A daemon starts nevertheless, and a second daemon is
// still refused.
func TestAStrangerWhoBindsTheNameOfALockKeepsNobodyFromLocking(t *testing.T) {
	for name, tt := range map[string]struct {
		kind    int
		listens bool
		warning string
	}{
		"listening": {unix.SOCK_STREAM, true, "it is ignored"},
		"bound":     {unix.SOCK_STREAM, false, "it is ignored"},
		"datagrams": {unix.SOCK_DGRAM, false, ""}, // datagram sockets have names of their own
	} {
		t.Run(name, func(t *testing.T) {
			table := "squat_" + name
			squat(t, lockPrefix+table, tt.kind, tt.listens)
			squat(t, lockPrefix+table+"/x", tt.kind, tt.listens)
			var log bytes.Buffer
			l, err := LockTable(t.Context(), table, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if !strings.Contains(log.String(), tt.warning) || strings.Count(log.String(), "\n") > 1 || tt.warning == "" && log.Len() > 0 {
				t.Errorf("logged %q, want %q in it", &log, tt.warning)
			}
			if _, err := LockTable(t.Context(), table, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrHeld) {
				t.Errorf("a second lock: %v", err)
			}
		})
	}
}

// The first lock needs a suffix, because a stranger has bound the plain name. After the
// stranger has released it, a second lock would get the plain name, but finds the first.
func TestALockWithASuffixIsFoundByOneWithout(t *testing.T) {
	const table = "later"
	var fd int
	asNobody(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + lockPrefix + table}), unix.Listen(fd, 1))
		}
		return err
	})
	mustLock(t, table)
	unix.Close(fd)
	if _, err := LockTable(t.Context(), table, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrHeld) {
		t.Errorf("a second lock: %v", err)
	}
}
