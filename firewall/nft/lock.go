package nft

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Lock keeps other processes of webknock away from a table: of two, each would
// take the other's changes for somebody else's and undo them, many times a
// second, and between two changes doors are open.
//
// It is a listening socket in the abstract namespace (unix(7)): such a name
// belongs to a network namespace, as a table does, and ends with its process,
// however that ends. Anybody may bind any name, so a name alone proves nothing.
// SO_PEERCRED tells whose it is, and only root and the process's own user count.
// If a stranger has the name, the lock takes the same name with a random
// ending, which nobody can have taken before, and everybody who wants a lock
// looks for all such names.
type Lock struct {
	listener *net.UnixListener
	stopping atomic.Bool
	done     sync.WaitGroup
}

// ErrHeld is the error if another process has the table.
var ErrHeld = errors.New("another webknock keeps this table")

const (
	lockPrefix = "webknock/table/"
	// How long a lock is waited for. A process that says that it will be gone
	// soon has the time that a stop takes at most, and some more. One that does
	// not say so has a moment: it may have been told to stop just now.
	lockPatience = 4 * time.Second
	lockMoment   = 300 * time.Millisecond
	lockInterval = 50 * time.Millisecond
	// lockAnswer is how long a holder may take to answer. One that does not, a
	// stopped process for example, holds the lock all the same.
	lockAnswer = 200 * time.Millisecond
)

// What a holder answers to who connects.
const (
	answerStays = "running\n"
	answerGoes  = "stopping\n"
)

// LockTable takes the lock of a table. It waits for a holder that is about to
// stop; for any other it returns an error that wraps ErrHeld and names it.
func LockTable(ctx context.Context, table string, log *slog.Logger) (*Lock, error) {
	began := time.Now()
	warned := false
	for {
		l, held, err := tryLock(ctx, table, func(name string, uid int) {
			if !warned { // strangers may have taken thousands
				warned = true
				log.Warn("a process that is neither root's nor this user's has a name that webknock locks the table by; it is ignored",
					"table", table, "name", "@"+name, "uid", uid)
			}
		})
		if l != nil || err != nil {
			return l, err
		}
		if waited := time.Since(began); waited > lockPatience || !held.goes && waited > lockMoment {
			return nil, fmt.Errorf("table %s: %w: process %d (%s); stop that one, or give this one a table of its own (firewall.table)",
				table, ErrHeld, held.pid, commandOf(held.pid))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockInterval):
		}
	}
}

// A holder is a process that has a lock.
type holder struct {
	pid  int
	goes bool // it is about to stop
}

// tryLock returns a lock, or who has it. It calls squats for every name that
// somebody has who does not count.
func tryLock(ctx context.Context, table string, squats func(name string, uid int)) (*Lock, holder, error) {
	name := lockPrefix + table
	bound, err := listenAbstract(ctx, name)
	if errors.Is(err, unix.EADDRINUSE) {
		held, uid, honest := ask(name)
		if honest {
			return nil, held, nil
		}
		squats(name, uid)
		name += "/" + rand.Text()
		bound, err = listenAbstract(ctx, name)
	}
	if err != nil {
		return nil, holder{}, fmt.Errorf("lock table %s: %w", table, err)
	}
	// Everybody's socket listens before it looks for others', so of two at least
	// one sees the other.
	others := slices.DeleteFunc(lockNames(table), func(other string) bool { return other == name })
	if held, honest := askAll(others, squats); honest {
		bound.Close()
		return nil, held, nil
	}
	l := &Lock{listener: bound}
	l.done.Go(l.answer)
	return l, holder{}, nil
}

func listenAbstract(ctx context.Context, name string) (*net.UnixListener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", "@"+name)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// lockNames returns the names by which the table is locked in this network
// namespace, of sockets that listen. Without /proc it returns none: then the
// plain name counts alone.
func lockNames(table string) (names []string) {
	list, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return nil
	}
	plain := lockPrefix + table
	for line := range strings.Lines(string(list)) {
		// Num RefCount Protocol Flags Type St Inode Path
		fields := strings.Fields(line)
		if len(fields) != 8 || fields[3] != "00010000" || fields[4] != "0001" { // __SO_ACCEPTCON, SOCK_STREAM
			continue
		}
		if name, ok := strings.CutPrefix(fields[7], "@"); ok && (name == plain || strings.HasPrefix(name, plain+"/")) {
			names = append(names, name)
		}
	}
	return names
}

// askAll asks many names at once, since a stranger may have taken thousands that
// do not answer, and returns one that counts.
func askAll(names []string, squats func(name string, uid int)) (held holder, honest bool) {
	var mu sync.Mutex
	var asked sync.WaitGroup
	slots := make(chan struct{}, 64)
	for _, name := range names {
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			h, uid, counts := ask(name)
			mu.Lock()
			defer mu.Unlock()
			if counts {
				held, honest = h, true
			} else {
				squats(name, uid)
			}
		})
	}
	asked.Wait()
	return held, honest
}

// ask connects to a lock and returns who holds it. Nobody honest does, if the
// socket belongs to another user or cannot be connected to: a lock's socket
// listens as soon as it has its name, and is always accepted from.
func ask(name string) (h holder, uid int, honest bool) {
	conn, err := dialAbstract(name)
	if err != nil {
		return h, -1, false
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return h, -1, false
	}
	var cred *unix.Ucred
	ctrl := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if ctrl != nil || err != nil {
		return h, -1, false
	}
	if uid = int(cred.Uid); uid != 0 && uid != os.Geteuid() {
		return h, uid, false
	}
	h.pid = int(cred.Pid)
	conn.SetReadDeadline(time.Now().Add(lockAnswer))
	var answer [len(answerGoes)]byte
	n, _ := conn.Read(answer[:])
	h.goes = string(answer[:n]) == answerGoes
	return h, uid, true
}

// dialAbstract connects to a name. A queue that is full is waited for: a lock's
// is soon emptied.
func dialAbstract(name string) (*net.UnixConn, error) {
	for deadline := time.Now().Add(lockAnswer); ; time.Sleep(time.Millisecond) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: "@" + name, Net: "unix"})
		// The name is there before its socket listens.
		again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNREFUSED)
		if !again || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// answer tells everybody who connects what becomes of the holder.
func (l *Lock) answer() {
	for {
		conn, err := l.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // no descriptors, perhaps
			time.Sleep(lockInterval)
			continue
		}
		said := answerStays
		if l.stopping.Load() {
			said = answerGoes
		}
		conn.SetWriteDeadline(time.Now().Add(lockAnswer))
		conn.Write([]byte(said))
		conn.Close()
	}
}

// Stopping has those who want the lock wait for it.
func (l *Lock) Stopping() { l.stopping.Store(true) }

// Close lets others have the table.
func (l *Lock) Close() error {
	err := l.listener.Close()
	l.done.Wait()
	return err
}

// commandOf returns the command line of a process, for people.
func commandOf(pid int) string {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	text := strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, string(line[:min(len(line), 200)])))
	switch {
	case errors.Is(err, syscall.ENOENT) || pid == 0:
		return "of another process namespace, or gone"
	case err != nil || text == "":
		return "its command cannot be read"
	}
	return text
}
