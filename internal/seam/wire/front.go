package wire

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/seam"
)

// A KeeperClient is the keeper, which runs in another process, for the front. When that
// has gone, whatever is asked of it fails or is lost.
type KeeperClient struct{ conn *conn }

var _ seam.Keeper = (*KeeperClient)(nil)

// Complete implements seam.Keeper.
func (k *KeeperClient) Complete(c seam.Completion) { k.conn.tell(complete, c) }

// Ban implements seam.Keeper.
func (k *KeeperClient) Ban(b seam.Ban) { k.conn.tell(ban, b) }

// Knocks implements seam.Keeper.
func (k *KeeperClient) Knocks(all []event.Knock, missed uint64) {
	k.conn.tell(knocks, knocksArgs{all, missed})
}

// Lost returns how many completions, bans and messages about knocks the keeper was not
// told of: it was too slow.
func (k *KeeperClient) Lost() uint64 { return k.conn.lostNotices() }

// UsedCodes implements seam.Keeper.
func (k *KeeperClient) UsedCodes() (used onetime.Used, err error) {
	return used, k.conn.ask(context.Background(), usedCodes, nil, &used)
}

// RecordCodes implements seam.Keeper.
func (k *KeeperClient) RecordCodes(used onetime.Used) error {
	return k.conn.ask(context.Background(), recordCodes, used, nil)
}

// ServeFront serves the keeper at the other end of a socket, which it takes over, with a
// front that newFront makes. It returns when the keeper has closed the connection after
// Stop, with nil, or when it has gone otherwise, or ctx is done.
func ServeFront(ctx context.Context, socket *net.UnixConn, newFront func(seam.Keeper) seam.Front) error {
	c := newConn(socket, "the keeper", nil)
	c.files = newFileReader(socket)
	front := newFront(&KeeperClient{c})
	over := make(chan struct{}, 1) // holds a value when the front has stopped
	c.serve = map[kind]function{
		prepare: prepareFunction(front),
		commit:  asked(func(ctx context.Context, _ none) (none, error) { return none{}, front.Commit(ctx) }),
		abort:   asked(func(context.Context, none) (none, error) { front.Abort(); return none{}, nil }),
		useCertificates: asked(func(ctx context.Context, a useCertificatesArgs) (none, error) {
			return none{}, front.UseCertificates(ctx, a.Address, a.All)
		}),
		useChallenges: asked(func(ctx context.Context, a []seam.Challenge) (none, error) {
			return none{}, front.UseChallenges(ctx, a)
		}),
		stop: asked(func(ctx context.Context, _ none) (none, error) {
			err := front.Stop(ctx)
			select {
			case over <- struct{}{}:
			default:
			}
			return none{}, err
		}),
		ping:        asked(func(ctx context.Context, _ none) (none, error) { return none{}, front.Ping(ctx) }),
		state:       asked(func(context.Context, none) (seam.State, error) { return front.State(), nil }),
		watchKnocks: told(front.WatchKnocks),
		clients:     asked(func(ctx context.Context, _ none) ([]seam.Client, error) { return clientsOf(ctx, front) }),
		recent:      asked(func(ctx context.Context, of netip.Addr) (seam.Recent, error) { return front.Recent(ctx, of) }),
		adoptBans:   asked(func(_ context.Context, all []firewall.Ban) (none, error) { front.AdoptBans(all); return none{}, nil }),
		unban:       asked(func(_ context.Context, client netip.Prefix) (none, error) { front.Unban(client); return none{}, nil }),
	}
	c.start()
	select {
	case <-c.done:
	case <-ctx.Done():
		c.fail(context.Cause(ctx))
	}
	select {
	case <-over:
		return nil
	default:
		return c.err()
	}
}

// prepareFunction has the front prepare a configuration with the sockets that come
// beside.
func prepareFunction(front seam.Front) function {
	return func(payload []byte, files []*os.File) (func(context.Context) (any, error), error) {
		a, err := decodeTo[prepareArgs](payload, false)
		if err == nil && len(a.Addresses) != len(files) {
			err = fmt.Errorf("%d addresses and %d sockets", len(a.Addresses), len(files))
		}
		sockets := make([]seam.Socket, len(files))
		for i := range sockets {
			if err == nil {
				sockets[i] = seam.Socket{Address: a.Addresses[i], File: files[i]}
			}
		}
		return func(ctx context.Context) (any, error) { return nil, front.Prepare(ctx, a.Configuration, sockets) }, err
	}
}

// maxClients bounds a list of clients.
const maxClients = 100_000

func clientsOf(ctx context.Context, front seam.Front) ([]seam.Client, error) {
	all, err := front.Clients(ctx)
	if err == nil && len(all) > maxClients {
		return nil, fmt.Errorf("%d clients are in progress, too many to list (up to %d)", len(all), maxClients)
	}
	return all, err
}
