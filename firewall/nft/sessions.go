package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"webknock/firewall"
)

// sessions returns the TCP sessions that are up between clients and ports of this host for
// which guarded returns true. A session belongs to a client if a socket listens on its
// local port; otherwise this host has opened it. Only sockets that match filter are listed.
func sessions(c sockets, filter []byte, guarded func(uint16) bool) (up []socket, err error) {
	listening, err := c.list(1<<stateListen, nil)
	if err != nil {
		return nil, err
	}
	open := map[uint16]bool{}
	for _, s := range listening {
		open[s.ours.Port()] = guarded(s.ours.Port())
	}
	up, err = c.list(stillUp, filter)
	return slices.DeleteFunc(up, func(s socket) bool { return !open[s.ours.Port()] }), err
}

// guards returns the door of a TCP port, or nil.
func guards(g firewall.Guard, p uint16) *firewall.Door {
	for i, door := range g.Doors {
		for _, ports := range door.Ports {
			if ports.Protocol == firewall.TCP && ports.First <= p && p <= ports.Last {
				return &g.Doors[i]
			}
		}
	}
	return nil
}

// guarding returns the guard, if there is one, and the cookies of the sockets of sessions from
// before it.
func (b *Backend) guarding(ctx context.Context) (g firewall.Guard, exempt map[uint64]bool, guarded bool, err error) {
	if err := b.lock.acquire(ctx); err != nil {
		return g, nil, false, err
	}
	defer b.lock.release()
	if b.guard == nil {
		return g, nil, false, nil
	}
	return *b.guard, b.earlier.cookies(), true, nil
}

// Sessions returns the clients that have TCP sessions to guarded ports of this host, by door.
// It leaves out allowed networks and this host itself.
func (b *Backend) Sessions(ctx context.Context) (map[string][]netip.Addr, error) {
	g, _, guarded, err := b.guarding(ctx)
	if !guarded {
		return nil, err
	}
	c, err := dialSockets()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	up, err := sessions(c, nil, func(p uint16) bool { return guards(g, p) != nil })
	by := map[string][]netip.Addr{}
	for _, s := range up {
		client := s.client.Addr()
		door := guards(g, s.ours.Port())
		if client == s.ours.Addr() || client.IsLoopback() || slices.Contains(by[door.Name], client) ||
			slices.ContainsFunc(g.Allow, func(p netip.Prefix) bool { return p.Contains(client) }) {
			continue
		}
		by[door.Name] = append(by[door.Name], client)
	}
	return by, err
}

// EndSessions implements firewall.Backend. The kernel resets the sockets of the sessions
// (SOCK_DESTROY of sock_diag), so that the clients notice at once. EndSessions lists only
// the sockets of these clients, because a host may have thousands.
//
// Sessions through a door that forwards have no socket here. The guard resets them when
// their client next sends. If a flowtable forwards such a session past all rules, its
// entry in connection tracking is deleted.
func (b *Backend) EndSessions(ctx context.Context, grants []firewall.Grant) error {
	g, exempt, guarded, err := b.guarding(ctx)
	if !guarded {
		return err
	}
	ended := map[grantKey]bool{}
	var clients []netip.Prefix
	var forwarded []firewall.Grant
	for _, grant := range grants {
		door := g.Door(grant.Door)
		switch {
		case door == nil:
		case door.Forward.IsValid():
			forwarded = append(forwarded, grant)
		default:
			ended[grantKey{grant.Door, grant.Client}] = true
			clients = append(clients, grant.Client)
		}
	}
	_, failed := b.forgetFlows(ctx, forwarded, func(f flow, _ firewall.Door) bool { return f.status&statusOffloaded != 0 })
	if len(clients) == 0 {
		return failed
	}
	c, err := dialSockets()
	if err != nil {
		return errors.Join(failed, err)
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	for part := range slices.Chunk(clients, maxClients) {
		up, err := sessions(c, fromClients(part), func(p uint16) bool { return guards(g, p) != nil })
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, s := range up {
			door := guards(g, s.ours.Port())
			if !ended[grantKey{door.Name, door.Scope(s.client.Addr())}] || exempt[s.id.cookie()] {
				continue
			}
			if err := c.destroy(s); err != nil {
				failed = errors.Join(failed, fmt.Errorf("reset a session of %s: %w", s.client, err))
			}
		}
	}
	return failed
}

// Expel implements firewall.Backend. The rule of a door's set labels each connection that
// it lets in, so that the connection outlives its grant. Expel removes the label from the
// intruders' connections, so that the guard drops their packets, and resets their sockets.
func (b *Backend) Expel(ctx context.Context, intruders []firewall.Grant) error {
	g, exempt, guarded, err := b.guarding(ctx)
	if !guarded {
		return err
	}
	elements, err := call(ctx, b, b.grants)
	if err != nil {
		return err
	}
	granted := map[grantKey]bool{}
	for _, e := range elements {
		granted[grantKey{e.Door, e.Client}] = e.Origin == firewall.Ours
	}
	intrudes := func(door firewall.Door, client netip.Addr) bool {
		return !granted[grantKey{door.Name, door.Scope(client)}] &&
			!slices.ContainsFunc(g.Allow, func(p netip.Prefix) bool { return p.Contains(client) }) &&
			slices.ContainsFunc(intruders, func(i firewall.Grant) bool { return i.Door == door.Name && i.Client.Contains(client) })
	}
	failed := b.eachFlow(ctx, intruders, func(c conntrack, f flow, door firewall.Door) error {
		if !f.labelled || !intrudes(door, f.client.Addr()) {
			return nil
		}
		return c.unlabel(f)
	})
	c, err := dialSockets()
	if err != nil {
		return errors.Join(failed, err)
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	var clients []netip.Prefix
	for _, i := range intruders {
		clients = append(clients, i.Client)
	}
	for part := range slices.Chunk(clients, maxClients) {
		up, err := sessions(c, fromClients(part), func(p uint16) bool { return guards(g, p) != nil })
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, s := range up {
			if intrudes(*guards(g, s.ours.Port()), s.client.Addr()) && !exempt[s.id.cookie()] {
				failed = errors.Join(failed, c.destroy(s))
			}
		}
	}
	return failed
}

// forgetFlows deletes entries of connection tracking, and returns them: those of the clients
// of grants to the ports of their doors, if which returns true for them.
func (b *Backend) forgetFlows(ctx context.Context, grants []firewall.Grant, which func(flow, firewall.Door) bool) (forgotten []flow, failed error) {
	failed = b.eachFlow(ctx, grants, func(c conntrack, f flow, door firewall.Door) error {
		if !which(f, door) {
			return nil
		}
		forgotten = append(forgotten, f)
		return c.delete(f)
	})
	return forgotten, failed
}

// eachFlow calls do for each entry of connection tracking from a client of grants to a port of
// its door.
func (b *Backend) eachFlow(ctx context.Context, grants []firewall.Grant, do func(conntrack, flow, firewall.Door) error) (failed error) {
	if len(grants) == 0 {
		return nil
	}
	g, _, guarded, err := b.guarding(ctx)
	if !guarded {
		return err
	}
	c, err := dialConntrack()
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(b.timeout)
	}
	c.SetDeadline(deadline)
	for _, grant := range grants {
		door := g.Door(grant.Door)
		if door == nil {
			continue
		}
		for _, protocol := range []firewall.Protocol{firewall.TCP, firewall.UDP} {
			if !slices.ContainsFunc(door.Ports, func(p firewall.Ports) bool { return p.Protocol == protocol }) {
				continue
			}
			flows, err := c.flows(protocol, grant.Client)
			if err != nil {
				return err
			}
			for _, f := range flows {
				to := func(p firewall.Ports) bool {
					return p.Protocol == protocol && p.First <= f.asked.Port() && f.asked.Port() <= p.Last
				}
				if slices.ContainsFunc(door.Ports, to) {
					failed = errors.Join(failed, do(c, f, *door))
				}
			}
		}
	}
	return failed
}

// forgetAnswers deletes the flows that a service of this host creates if it still answers in
// a forgotten flow: connection tracking takes the service for the client. It tries until no
// such flow has appeared for 30 ms.
func forgetAnswers(forgotten []flow) error {
	c, err := dialConntrack()
	if err != nil {
		return err
	}
	defer c.Close()
	for quiet, tries := 0, 0; quiet < 3 && tries < 50; tries++ {
		quiet++
		for _, f := range forgotten {
			answer, there, err := c.find(flow{protocol: f.protocol, client: f.served, asked: f.client, zone: f.zone})
			if there {
				quiet = 0
				err = c.delete(answer)
			}
			if err != nil {
				return err
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// begun holds new grants of doors that forward. DNAT applies only to the first packet of a
// flow, so a client that was already sending before its grant is not forwarded. A WireGuard
// client, for example, always sends from the same port.
type begun struct {
	wake chan struct{}

	mu     sync.Mutex
	grants []firewall.Grant
}

// sendOn queues grants for forgetOldFlows. The caller holds b.lock.
func (b *Backend) sendOn(grants []firewall.Grant) {
	b.begun.mu.Lock()
	defer b.begun.mu.Unlock()
	for _, g := range grants {
		if door := b.guard.Door(g.Door); door != nil && door.Forward.IsValid() {
			b.begun.grants = append(b.begun.grants, g)
		}
	}
	if len(b.begun.grants) > 0 {
		select {
		case b.begun.wake <- struct{}{}:
		default:
		}
	}
}

// forgetOldFlows processes the queue of sendOn until ctx is done. It deletes the flows from
// before a grant, so that the client's next packet begins a new flow to which DNAT applies.
// It deletes none when a grant ends: the server's next packet would create the flow again,
// and the client's packets would pass as answers.
func (b *Backend) forgetOldFlows(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.begun.wake:
		}
		b.begun.mu.Lock()
		grants := b.begun.grants
		b.begun.grants = nil
		b.begun.mu.Unlock()
		forgotten, err := b.forgetFlows(ctx, grants, func(f flow, door firewall.Door) bool { return f.served != door.Forward })
		if len(forgotten) > 0 { // a service may be about to answer in them
			err = errors.Join(err, forgetAnswers(forgotten))
		}
		if err != nil {
			b.log.Warn("nftables: flows from before a grant cannot be deleted; their packets may not be forwarded until the flows time out", "error", err)
		}
	}
}
