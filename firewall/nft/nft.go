// Package nft keeps doors closed with nftables, over netlink. Start with [New] and
// [Backend].
//
// One table of the family inet holds everything. Each door has a chain and two sets of
// addresses, one for IPv4 and one for IPv6. Their elements are the grants, which the
// kernel removes when they time out. Base chains at input and forward send packets to
// guarded ports into the chain of their door. The table closes ports and opens none, so
// all other rules of the host stay in force.
//
// A ruleset (ruleset.go) is built from a firewall.Guard as a list of rules; each rule is
// described once (rule.go) and rendered to netlink (guard.go) and to text (print.go).
// [Backend.Guard] writes only what differs from the table that is there. grants.go and
// bans.go change elements. watch.go listens for changes of other processes. earlier.go
// keeps the sessions that were up before the guard alive; sessions.go ends sessions.
package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"webknock/firewall"
)

// Options are what a Backend is made with.
type Options struct {
	Table string // name of the table
	Log   *slog.Logger
	// Sessions keeps which sessions were up before the guard, over restarts; nil:
	// nothing does.
	Sessions Store
}

// Backend is a firewall.Backend on the nftables of the network namespace that
// the process is in. It needs CAP_NET_ADMIN.
type Backend struct {
	table   *nftables.Table
	log     *slog.Logger
	changed chan firewall.By
	stop    context.CancelFunc
	done    chan struct{}

	buffer  int           // bytes of answers that the socket may hold
	timeout time.Duration // of one do
	port    atomic.Uint32 // of the connection

	tampered tampering
	watching sync.Mutex
	watcher  *netlink.Conn // nil: none

	// fault is for tests: do calls it before and after f, and fails with its error.
	fault func(what string, said bool) error

	// lock guards conn and all that follows, because requests and answers of two callers
	// would mix.
	lock      lock
	work      chan func()   // for worker, sent by the holder of lock
	closed    chan struct{} // by Close
	closeOnce sync.Once
	conn      *nftables.Conn
	sock      *netlink.Conn // of conn, for its deadlines, and for what the library lacks
	// claimed reports that sock owns the table.
	claimed bool
	// noLabels reports that the kernel has no labels of connections.
	noLabels  atomic.Bool
	guard     *firewall.Guard
	current   structure  // the table as the last Guard left it, read back
	seen      *structure // the table in the generation seenAt; nil: unknown
	seenAt    uint32
	seenSince time.Time
	stale     atomic.Bool // somebody else has changed the table since it was read

	intruders  []firewall.Grant // whom the next Guard expels
	background sync.WaitGroup

	store        Store
	earlier      *earlier // nil: the store was not read yet
	coming       *earlier // what earlier will be if the table is written
	comingSaved  bool     // the store has it already
	earlierNoted chan struct{}

	begun begun
}

var _ firewall.Backend = (*Backend)(nil)

const (
	sockBuffer     = 4 << 20          // bytes; enough for the acknowledgements of 5,000 messages
	requestTimeout = 10 * time.Second // reading 65,536 grants takes a part of it
	// maxChanges is how many grants one transaction sets at most: what the
	// socket takes is bounded.
	maxChanges = 8192
)

// New returns a backend, and an error that wraps firewall.ErrPermission or
// firewall.ErrUnsupported if it cannot work here. It changes nothing yet.
func New(o Options) (*Backend, error) {
	ctx, stop := context.WithCancel(context.Background())
	b := &Backend{
		table:   tableNamed(o.Table),
		log:     o.Log,
		changed: make(chan firewall.By, 1),
		buffer:  sockBuffer,
		timeout: requestTimeout,
		stop:    stop,
		done:    make(chan struct{}),
		lock:    make(lock, 1),
		work:    make(chan func()),
		closed:  make(chan struct{}),

		store:        o.Sessions,
		earlierNoted: make(chan struct{}, 1),
		begun:        begun{wake: make(chan struct{}, 1)},
	}
	err := b.doLocking("list tables", func(c *nftables.Conn) error {
		_, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
		return err
	})
	if err != nil {
		stop()
		return nil, err
	}
	go b.worker()
	go b.monitor(ctx)
	b.background.Go(func() { b.watchEarlier(ctx) })
	b.background.Go(func() { b.forgetOldFlows(ctx) })
	return b, nil
}

func tableNamed(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

// Changed implements firewall.Backend.
func (b *Backend) Changed() <-chan firewall.By { return b.changed }

// closePatience is how long Close waits for a kernel that does not answer.
const closePatience = 300 * time.Millisecond

// Close implements firewall.Backend. It waits for the kernel for closePatience at most,
// because the transaction of another process may delay its answers. The sockets end with
// the process in any case.
func (b *Backend) Close() error {
	b.stop()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-b.done
		b.background.Wait()
		b.lock.acquire(context.Background())
		defer b.lock.release()
		b.closeConn()
		b.closeOnce.Do(func() { close(b.closed) })
	}()
	select {
	case <-closed:
		return nil
	case <-time.After(closePatience):
		return errors.New("nftables: the kernel does not answer")
	}
}

// doLocking runs do for a caller that does not hold b.lock.
func (b *Backend) doLocking(what string, f func(*nftables.Conn) error) error {
	b.lock.acquire(context.Background())
	defer b.lock.release()
	return b.do(what, f)
}

// do runs f on the persistent netlink connection; a connection for each call would cost
// milliseconds, because closing one after a delete waits in the kernel. After an error it
// closes the connection, because messages or replies may be left in it. The caller holds
// b.lock.
func (b *Backend) do(what string, f func(*nftables.Conn) error) error {
	err := b.dial()
	if err == nil {
		err = b.sock.SetDeadline(time.Now().Add(b.timeout))
	}
	if err == nil && b.guard != nil && b.guard.Owner && !b.claimed {
		var t tableInfo
		if t, err = b.info(); err == nil {
			err = b.adopt(t)
		}
	}
	if err == nil && b.fault != nil {
		err = b.fault(what, false)
	}
	if err == nil {
		err = f(b.conn)
	}
	if err == nil && b.fault != nil {
		err = b.fault(what, true)
	}
	if err != nil {
		b.closeConn()
		return fmt.Errorf("nftables: %s: %w", what, classify(err))
	}
	return nil
}

func (b *Backend) dial() error {
	if b.conn != nil {
		return nil
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		b.sock = c
		// Without CAP_NET_ADMIN in the first user namespace the kernel grants
		// less, which is enough for small transactions.
		c.SetReadBuffer(b.buffer)
		c.SetWriteBuffer(sockBuffer)
		return nil
	}))
	if err != nil {
		return err
	}
	b.conn = conn
	port, err := portOf(b.sock)
	b.watching.Lock()
	defer b.watching.Unlock()
	b.port.Store(port) // 0, if it cannot be told: then our own changes are looked at as well
	return errors.Join(err, b.filterOwn())
}

func (b *Backend) closeConn() {
	if b.conn != nil {
		b.conn.CloseLasting()
		b.conn, b.sock, b.claimed = nil, nil, false
	}
}

// classify wraps an error of the kernel in the sentinel that says what it
// means.
func classify(err error) error {
	for errno, sentinel := range map[syscall.Errno]error{
		syscall.EPERM:           firewall.ErrPermission,
		syscall.EACCES:          firewall.ErrPermission,
		syscall.EPROTONOSUPPORT: firewall.ErrUnsupported,
		syscall.EAFNOSUPPORT:    firewall.ErrUnsupported,
		syscall.ENFILE:          firewall.ErrFull,
		syscall.ENOENT:          firewall.ErrNotGuarded,
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", sentinel, err)
		}
	}
	return err
}
