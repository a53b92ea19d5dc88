package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"webknock/firewall"
	"webknock/internal/onetime"
	"webknock/internal/seam"
)

// patience bounds what the keeper asks without a limit of its own.
const patience = 5 * time.Second

// A FrontClient is the keeper's end: it is the front that runs in another process, and
// does what that asks of the keeper, if the time for it has come.
type FrontClient struct {
	conn  *conn
	phase atomic.Int32 // a phase

	mu   sync.Mutex
	last seam.State // as it came last
}

// A phase says what the front may ask.
type phase int32

const (
	fresh   phase = iota // nothing: it has no configuration yet
	serving              // all
	stopped              // nothing any more
)

var _ seam.Front = (*FrontClient)(nil)

// NewFrontClient returns the front at the other end of a socket, which it takes over, and
// does what that asks of the keeper.
func NewFrontClient(socket *net.UnixConn, keeper seam.Keeper) *FrontClient {
	f := new(FrontClient)
	f.conn = newConn(socket, "the front", map[kind]function{
		complete:    told(keeper.Complete),
		ban:         told(keeper.Ban),
		knocks:      told(func(a knocksArgs) { keeper.Knocks(a.Knocks, a.Missed) }),
		usedCodes:   asked(func(context.Context, none) (onetime.Used, error) { return keeper.UsedCodes() }),
		recordCodes: asked(func(_ context.Context, used onetime.Used) (none, error) { return none{}, keeper.RecordCodes(used) }),
	})
	f.conn.may = func(k kind) error {
		switch phase(f.phase.Load()) {
		case fresh:
			return fmt.Errorf("%s before it serves anything", k)
		case stopped:
			return fmt.Errorf("%s after its end", k)
		}
		return nil
	}
	f.conn.start()
	return f
}

// Done is closed when the connection has ended.
func (f *FrontClient) Done() <-chan struct{} { return f.conn.done }

// Err returns why the connection has ended: it is ErrGone, ErrProtocol, or
// seam.ErrStopped after Close. It returns nil while the connection lasts.
func (f *FrontClient) Err() error { return f.conn.err() }

// Close ends the connection, which ends the front.
func (f *FrontClient) Close() error {
	f.conn.close()
	return nil
}

// Prepare implements seam.Front.
func (f *FrontClient) Prepare(ctx context.Context, c seam.Configuration, sockets []seam.Socket) error {
	argument := prepareArgs{Configuration: c}
	var files []*os.File
	for _, s := range sockets {
		argument.Addresses = append(argument.Addresses, s.Address)
		files = append(files, s.File)
	}
	return f.conn.ask(ctx, prepare, argument, nil, files...)
}

// Commit implements seam.Front.
func (f *FrontClient) Commit(ctx context.Context) error {
	f.phase.CompareAndSwap(int32(fresh), int32(serving))
	return f.conn.ask(ctx, commit, nil, nil)
}

// Abort implements seam.Front.
func (f *FrontClient) Abort() { f.soon(abort, nil, nil) }

// UseCertificates implements seam.Front.
func (f *FrontClient) UseCertificates(ctx context.Context, address string, all []seam.Certificate) error {
	return f.conn.ask(ctx, useCertificates, useCertificatesArgs{address, all}, nil)
}

// UseChallenges implements seam.Front.
func (f *FrontClient) UseChallenges(ctx context.Context, pending []seam.Challenge) error {
	return f.conn.ask(ctx, useChallenges, pending, nil)
}

// Stop implements seam.Front.
func (f *FrontClient) Stop(ctx context.Context) error {
	err := f.conn.ask(ctx, stop, nil, nil)
	f.phase.Store(int32(stopped))
	return err
}

// Ping implements seam.Front.
func (f *FrontClient) Ping(ctx context.Context) error { return f.conn.ask(ctx, ping, nil, nil) }

// State implements seam.Front. If the front does not answer, it returns its latest
// counters, and says so.
func (f *FrontClient) State() seam.State {
	var now seam.State
	err := f.soon(state, nil, &now)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.last = now
		return now
	}
	now = f.last
	now.Problems = append(now.Problems[:len(now.Problems):len(now.Problems)], fmt.Sprintf("nobody can knock: %v", err))
	return now
}

// WatchKnocks implements seam.Front. It does not wait.
func (f *FrontClient) WatchKnocks(on bool) { f.conn.tell(watchKnocks, on) }

// Clients implements seam.Front.
func (f *FrontClient) Clients(ctx context.Context) (all []seam.Client, err error) {
	return all, f.conn.ask(ctx, clients, nil, &all)
}

// Recent implements seam.Front.
func (f *FrontClient) Recent(ctx context.Context, addr netip.Addr) (r seam.Recent, err error) {
	return r, f.conn.ask(ctx, recent, addr, &r)
}

// AdoptBans implements seam.Front.
func (f *FrontClient) AdoptBans(all []firewall.Ban) { f.soon(adoptBans, all, nil) }

// Unban implements seam.Front.
func (f *FrontClient) Unban(client netip.Prefix) { f.soon(unban, client, nil) }

// soon asks what has no context.
func (f *FrontClient) soon(k kind, argument, result any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := f.conn.ask(ctx, k, argument, result)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("the front does not answer")
	}
	return err
}
