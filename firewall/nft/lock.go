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

// A Lock allows one webknock process per table. Two processes would undo each other's
// changes many times a second, and doors are open between two changes.
//
// The lock is a listening socket with an abstract name (unix(7)). Such a name belongs to
// a network namespace, as a table does, and the kernel frees it when the process ends.
// Any process may bind any name, so only sockets of root and of this process's own user
// count as locks; SO_PEERCRED tells the owner. If another user has bound the name, the
// lock binds the same name with a random suffix. Therefore everybody who wants the lock
// looks for all names with that prefix.
type Lock struct {
	listener *net.UnixListener
	stopping atomic.Bool
	done     sync.WaitGroup
}

// ErrHeld is returned if another process has locked the table.
var ErrHeld = errors.New("another webknock keeps this table")

const (
	lockPrefix = "webknock/table/"
	// lockPatience is how long LockTable waits for a holder that is stopping: longer than
	// a stop takes.
	lockPatience = 4 * time.Second
	// lockGrace is how long it waits for a holder that is running, which may be told to
	// stop at this moment.
	lockGrace    = 300 * time.Millisecond
	lockInterval = 50 * time.Millisecond // between two tries
	// lockAnswer is how long a holder may take to answer. A holder that does not answer
	// still has the lock; it may be suspended, for example.
	lockAnswer = 200 * time.Millisecond
)

// The answers of a holder to a connection.
const (
	answerRunning  = "running\n"
	answerStopping = "stopping\n"
)

// LockTable locks a table. It waits for a holder that is stopping. If another process
// holds the lock, it returns an error that wraps ErrHeld and names that process.
func LockTable(ctx context.Context, table string, log *slog.Logger) (*Lock, error) {
	began := time.Now()
	warned := false
	for {
		l, held, err := tryLock(ctx, table, func(name string, uid int) {
			if !warned { // a stranger may have bound thousands of names
				warned = true
				log.Warn("a name by which webknock locks the table belongs to another user, or does not accept connections; it is ignored",
					"table", table, "name", "@"+name, "uid", uid)
			}
		})
		if l != nil || err != nil {
			return l, err
		}
		if waited := time.Since(began); waited > lockPatience || !held.stopping && waited > lockGrace {
			return nil, fmt.Errorf("table %s: %w: process %d (%s); stop it, or set firewall.table to another name",
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
	pid      int
	stopping bool
}

// tryLock returns the lock, or its holder. It calls ignored for each name that another
// user has bound.
func tryLock(ctx context.Context, table string, ignored func(name string, uid int)) (*Lock, holder, error) {
	name := lockPrefix + table
	bound, err := listenAbstract(ctx, name)
	if errors.Is(err, unix.EADDRINUSE) {
		held, uid, trusted := ask(name)
		if trusted {
			return nil, held, nil
		}
		ignored(name, uid)
		name += "/" + rand.Text()
		bound, err = listenAbstract(ctx, name)
	}
	if err != nil {
		return nil, holder{}, fmt.Errorf("lock table %s: %w", table, err)
	}
	// Each process listens before it looks for other sockets, so at least one of two
	// processes sees the other.
	others := slices.DeleteFunc(lockNames(table), func(other string) bool { return other == name })
	if held, trusted := askAll(others, ignored); trusted {
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

// lockNames returns the names of the listening sockets in this network namespace that may
// be locks of the table. Without /proc it returns none; then only the name without a
// suffix counts.
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

// askAll asks many sockets at once, since a stranger may have bound thousands of names that
// do not answer. It returns a holder, if there is one.
func askAll(names []string, ignored func(name string, uid int)) (held holder, trusted bool) {
	var mu sync.Mutex
	var pending sync.WaitGroup
	slots := make(chan struct{}, 64)
	for _, name := range names {
		slots <- struct{}{}
		pending.Go(func() {
			defer func() { <-slots }()
			h, uid, ok := ask(name)
			mu.Lock()
			defer mu.Unlock()
			if ok {
				held, trusted = h, true
			} else {
				ignored(name, uid)
			}
		})
	}
	pending.Wait()
	return held, trusted
}

// ask connects to a socket and returns the process that owns it. The socket is trusted
// unless it belongs to another user or refuses connections: a real lock always accepts
// them.
func ask(name string) (h holder, uid int, trusted bool) {
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
	var answer [len(answerStopping)]byte
	n, _ := conn.Read(answer[:])
	h.stopping = string(answer[:n]) == answerStopping
	return h, uid, true
}

// dialAbstract connects to a name. It retries while the queue of connections is full,
// because a lock soon empties its queue.
func dialAbstract(name string) (*net.UnixConn, error) {
	for deadline := time.Now().Add(lockAnswer); ; time.Sleep(time.Millisecond) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: "@" + name, Net: "unix"})
		// A name exists for a moment before its socket listens.
		again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNREFUSED)
		if !again || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// answer tells every process that connects whether this process is stopping.
func (l *Lock) answer() {
	for {
		conn, err := l.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // no free file descriptor, for example
			time.Sleep(lockInterval)
			continue
		}
		text := answerRunning
		if l.stopping.Load() {
			text = answerStopping
		}
		conn.SetWriteDeadline(time.Now().Add(lockAnswer))
		conn.Write([]byte(text))
		conn.Close()
	}
}

// Stopping announces that the lock will soon be released. LockTable of other processes then
// waits for it.
func (l *Lock) Stopping() { l.stopping.Store(true) }

// Close releases the lock.
func (l *Lock) Close() error {
	err := l.listener.Close()
	l.done.Wait()
	return err
}

// commandOf returns the command line of a process, for a message.
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
