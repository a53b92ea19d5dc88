package nft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// SessionsFile is what a Store may be called, and MaxSessionsFile how large it may
// become.
const (
	SessionsFile    = "sessions.json"
	MaxSessionsFile = 32 << 20 // bytes
)

// A Store keeps some bytes over restarts. Load returns what Save was given last,
// or nil.
type Store interface {
	Load() ([]byte, error)
	Save([]byte) error
}

// earlier is the TCP sessions that were up before the guard. The guard lets them
// live: packets of theirs that begin nothing new, by their addresses and ports.
//
// The sessions to a port are looked for once: when the port comes under guard
// for the first time since the machine was booted, or after it was taken from
// under guard on purpose, by webknock unguard or another configuration. Later
// they only become fewer: one that is over is taken out. Neither a restart nor a
// table that somebody else has taken away brings others in, since those could be
// sessions that a grant has let in, or that slipped in while there was no guard.
//
// Nor does a port that comes under guard again bring in what was up when it was
// taken from under it: that is left, and began under a grant, for example.
type earlier struct {
	known    bool               // there is a record of this boot
	ports    []firewall.Ports   // of TCP, that are under guard
	sessions map[string]session // by the key of their element
	left     map[uint64]uint16  // identities of sessions that do not count, and their ports
}

// A session is one of TCP. It is told from a later one with the same addresses
// and ports by its identity: the cookie of its socket, if it has one in this
// host, or the number of its entry of connection tracking, if DNAT sends it on.
type session struct {
	Client netip.AddrPort `json:"client"`
	Ours   netip.AddrPort `json:"ours"`           // as its packets have it when they are judged
	Asked  netip.AddrPort `json:"asked,omitzero"` // of one that DNAT sends on: as its client has it
	Family byte           `json:"family,omitempty"`
	Iface  uint32         `json:"interface,omitempty"` // that its socket is bound to
	Zone   uint16         `json:"zone,omitempty"`      // of its entry of connection tracking
	ID     uint64         `json:"id"`
}

// tracked marks identities that are of connection tracking.
const tracked = 1 << 63

// maxEarlier is how many sessions from before the guard there may be: half of
// what a set holds.
const maxEarlier = setSize / 2

// key returns the session as an element of its set.
func (s session) key() string {
	return string(slices.Concat(s.Client.Addr().AsSlice(), port(s.Client.Port()), []byte{0, 0}, s.Ours.Addr().AsSlice(), port(s.Ours.Port()), []byte{0, 0}))
}

// guardedPort is the port that its client asked for.
func (s session) guardedPort() uint16 {
	if s.Asked.IsValid() {
		return s.Asked.Port()
	}
	return s.Ours.Port()
}

// upSessions returns the sessions that are up, to ports for which guarded
// returns true. It returns those that it has found beside an error.
func upSessions(guarded func(uint16) bool) (up []session, err error) {
	c, err := dialSockets()
	if err == nil {
		defer c.Close()
		var found []socket
		found, err = sessions(c, nil, guarded)
		for _, s := range found {
			if !s.client.Addr().IsLoopback() {
				up = append(up, session{Client: s.client, Ours: s.ours, Family: s.family, Iface: s.id.iface(), ID: s.id.cookie()})
			}
		}
	}
	// Those that DNAT sends on, to a container for example, have no socket here
	// or one on another port.
	t, trackErr := dialConntrack()
	if trackErr != nil {
		return up, errors.Join(err, trackErr)
	}
	defer t.Close()
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		flows, trackErr := t.flows(firewall.TCP, netip.MustParsePrefix(all))
		err = errors.Join(err, trackErr)
		for _, f := range flows {
			if f.runs() && f.served != f.asked && guarded(f.asked.Port()) {
				up = append(up, session{Client: f.client, Ours: f.served, Asked: f.asked, Zone: f.zone, ID: tracked | uint64(f.id)})
			}
		}
	}
	return up, err
}

// runs reports whether a flow of TCP was established and may carry data.
func (f flow) runs() bool { return ctEstablished <= f.state && f.state < ctTimeWait }

// A checker tells whether sessions are still up.
type checker struct {
	sockets   sockets
	conntrack conntrack
}

func newChecker() (c checker, err error) {
	if c.sockets, err = dialSockets(); err != nil {
		return c, err
	}
	if c.conntrack, err = dialConntrack(); err != nil {
		c.sockets.Close()
	}
	return c, err
}

func (c checker) close() {
	c.sockets.Close()
	c.conntrack.Close()
}

// up reports whether a session is still up, and no other in its place.
func (c checker) up(s session) (bool, error) {
	if s.ID&tracked != 0 {
		f, there, err := c.conntrack.find(flow{protocol: firewall.TCP, client: s.Client, asked: s.Asked, zone: s.Zone})
		return there && f.runs() && tracked|uint64(f.id) == s.ID, err
	}
	ours, client := s.Ours, s.Client
	if s.Family == unix.AF_INET6 && client.Addr().Is4() { // a socket for both
		mapped := func(a netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
		}
		ours, client = mapped(ours), mapped(client)
	}
	state, there, err := c.sockets.find(s.Family, newSocketID(ours, client, s.Iface, s.ID))
	return there && state != stateTimeWait && state != stateClosed, err
}

// cookies returns the identities of the sessions.
func (e *earlier) cookies() map[uint64]bool {
	all := make(map[uint64]bool, len(e.sessions))
	for _, s := range e.sessions {
		all[s.ID] = true
	}
	return all
}

// clone returns a copy that can be changed.
func (e *earlier) clone() *earlier {
	c := *e
	c.sessions, c.left = maps.Clone(e.sessions), maps.Clone(e.left)
	if c.sessions == nil {
		c.sessions = map[string]session{}
	}
	if c.left == nil {
		c.left = map[uint64]uint16{}
	}
	return &c
}

// without returns the ports that none of others is.
func without(ports, others []firewall.Ports) func(uint16) bool {
	return func(p uint16) bool { return among(p, ports) && !among(p, others) }
}

func among(port uint16, all []firewall.Ports) bool {
	return slices.ContainsFunc(all, func(p firewall.Ports) bool { return p.First <= port && port <= p.Last })
}

func tcpPorts(g firewall.Guard) (ports []firewall.Ports) {
	if g.Mode == firewall.Sets {
		return nil // where nothing is dropped no session needs to be let through
	}
	for _, door := range g.Doors {
		for _, p := range door.Ports {
			if p.Protocol == firewall.TCP {
				ports = append(ports, p)
			}
		}
	}
	return ports
}

// guard notes that other ports are under guard from now on: sessions to new ones
// are from before the guard, unless except returns true; those to ports that are
// no longer guarded will not count later. It reports whether anything is
// different.
func (e *earlier) guard(ports []firewall.Ports, except func(session) bool, up func(func(uint16) bool) ([]session, error)) (changed bool, err error) {
	if e.known && slices.Equal(ports, e.ports) {
		return false, nil
	}
	comes, goes := without(ports, e.ports), without(e.ports, ports)
	found, err := up(func(p uint16) bool { return comes(p) || goes(p) })
	over := 0
	for _, s := range found {
		known, counts := e.sessions[s.key()]
		counts = counts && known.ID == s.ID // another may have come in its place
		_, left := e.left[s.ID]
		switch p := s.guardedPort(); {
		case goes(p):
			if !counts {
				e.left[s.ID] = p
			}
		case counts || left || except(s):
		case len(e.sessions) >= maxEarlier:
			over++
		default:
			e.sessions[s.key()] = s
		}
	}
	maps.DeleteFunc(e.left, func(_ uint64, p uint16) bool { return comes(p) })
	e.known, e.ports = true, ports
	if over > 0 {
		err = errors.Join(err, fmt.Errorf("%d sessions beyond the first %d are not noted", over, maxEarlier))
	}
	return true, err
}

// earlierFile is what the store has.
type earlierFile struct {
	Version  int               `json:"version"`
	Boot     string            `json:"boot"`
	Ports    []string          `json:"ports"`
	Sessions []session         `json:"sessions"`
	Left     map[uint64]uint16 `json:"left,omitempty"`
}

const sessionsVersion = 1

// boot names this boot of the machine and this network namespace.
func boot() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id)) + " " + namespace()
}

// namespace names the network namespace, as no other will be called while the
// machine runs.
func namespace() string {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return strconv.FormatUint(cookie, 10)
	}
	var stat unix.Stat_t // a kernel before 5.14
	if unix.Stat("/proc/thread-self/ns/net", &stat) != nil {
		return ""
	}
	return "inode " + strconv.FormatUint(stat.Ino, 10)
}

func (e *earlier) encode() ([]byte, error) {
	file := earlierFile{Version: sessionsVersion, Boot: boot(), Sessions: slices.AppendSeq([]session{}, maps.Values(e.sessions)), Left: e.left}
	for _, p := range e.ports {
		file.Ports = append(file.Ports, fmt.Sprintf("%d-%d", p.First, p.Last))
	}
	return json.Marshal(file)
}

// decodeEarlier reads what the store has of this boot. Of another boot it
// returns nothing known.
func decodeEarlier(data []byte) (*earlier, error) {
	e := new(earlier).clone()
	if data == nil {
		return e, nil
	}
	var file earlierFile
	if err := json.Unmarshal(data, &file); err != nil {
		return e, err
	}
	if file.Version != sessionsVersion {
		return e, fmt.Errorf("version %d is not known (%d)", file.Version, sessionsVersion)
	}
	if file.Boot != boot() {
		return e, nil
	}
	for _, text := range file.Ports {
		var p firewall.Ports
		if _, err := fmt.Sscanf(text, "%d-%d", &p.First, &p.Last); err != nil {
			return new(earlier).clone(), fmt.Errorf("ports %q: %w", text, err)
		}
		p.Protocol = firewall.TCP
		e.ports = append(e.ports, p)
	}
	for _, s := range file.Sessions {
		if !s.Client.IsValid() || !s.Ours.IsValid() || s.Client.Addr().Is4() != s.Ours.Addr().Is4() {
			continue
		}
		e.sessions[s.key()] = s
	}
	maps.Copy(e.left, file.Left)
	e.known = true
	return e, nil
}

// loadEarlier reads the store, once. It is the caller's turn.
func (b *Backend) loadEarlier() {
	if b.earlier != nil {
		return
	}
	b.earlier = new(earlier).clone()
	if b.store == nil {
		return
	}
	data, err := b.store.Load()
	if err == nil {
		b.earlier, err = decodeEarlier(data)
	}
	if err != nil {
		b.log.Warn("nftables: which sessions were up before the guard was put up cannot be read", "error", err)
	}
}

// saveEarlier writes the store. It is the caller's turn.
func (b *Backend) saveEarlier() {
	if b.store == nil {
		return
	}
	data, err := b.earlier.encode()
	if err == nil {
		err = b.store.Save(data)
	}
	if err != nil {
		b.log.Warn("nftables: which sessions were up before the guard was put up cannot be written down: "+
			"if the table is gone when webknock starts again, those count that are up then", "error", err)
	}
}

// planEarlier looks which sessions are from before a guard that is about to be
// put up over what was before. It is the caller's turn, and calls noteEarlier when
// the guard is up.
func (b *Backend) planEarlier(g firewall.Guard, before structure, rebuild bool, running map[grantKey]element) {
	first := b.earlier == nil
	b.loadEarlier()
	next, saved := b.earlier.clone(), true
	var err error
	there := map[string]bool{}
	if slices.Contains(before.Sets, b.beforeSet(families[0]).Name) {
		there, err = b.readEarlier()
	}
	if !next.known && len(before.Sets) > 0 && !rebuild && !before.lastVersion() {
		// The guard was put up in this boot, and nobody could write that down.
		// What it lets live is in its sets.
		next.known, next.ports, saved = true, tcpPorts(g), false
		up, upErr := upSessions(func(p uint16) bool { return among(p, next.ports) })
		err = errors.Join(err, upErr)
		for _, s := range up {
			if there[s.key()] {
				next.sessions[s.key()] = s
			}
		}
	}
	// A table of another kind may have let in sessions under grants that its
	// doors cut; those at other doors have to live on.
	except := func(s session) bool {
		door := guards(g, s.guardedPort())
		if !before.exists() || door == nil || door.Established != firewall.Cut {
			return false
		}
		_, granted := running[grantKey{door.Name, door.Scope(s.Client.Addr())}]
		return granted || before.lastVersion() && !there[s.key()]
	}
	noted, noteErr := next.guard(tcpPorts(g), except, upSessions)
	if first || rebuild || !before.exists() {
		err = errors.Join(err, b.forgetEnded(next))
	}
	if err = errors.Join(err, noteErr); err != nil {
		b.log.Warn("nftables: sessions that are up cannot all be listed; some may hang", "error", err)
	}
	b.coming, b.comingSaved = next, saved && !noted
}

// planUnguarded looks which sessions are up when the guard is about to be taken
// away on purpose. Those that are not from before the guard will not be from
// before the next either. It is the caller's turn, and calls noteEarlier when the
// guard is gone.
func (b *Backend) planUnguarded() {
	b.loadEarlier()
	b.coming, b.comingSaved = b.earlier.clone(), true
	if !b.coming.known {
		return
	}
	noted, err := b.coming.guard(nil, func(session) bool { return false }, upSessions)
	if err != nil {
		b.log.Warn("nftables: sessions that are up cannot all be listed; some may live on after the next guard", "error", err)
	}
	b.comingSaved = !noted
}

// noteEarlier makes what was planned what is. It is the caller's turn.
func (b *Backend) noteEarlier() {
	b.earlier, b.coming = b.coming, nil
	if !b.comingSaved {
		b.saveEarlier()
	}
	if len(b.earlier.sessions) > 0 {
		select {
		case b.earlierNoted <- struct{}{}:
		default:
		}
	}
}

// readEarlier returns the keys of the elements in the sets.
func (b *Backend) readEarlier() (map[string]bool, error) {
	there := map[string]bool{}
	err := b.talk("read the sessions from before the guard", func(c *nftables.Conn) error {
		for _, f := range families {
			elements, err := c.GetSetElements(b.beforeSet(f))
			if err != nil {
				return err
			}
			for _, e := range elements {
				there[string(e.Key)] = true
			}
		}
		return nil
	})
	return there, err
}

// forgetEnded takes out the sessions that are over.
func (b *Backend) forgetEnded(e *earlier) error {
	if len(e.sessions) == 0 {
		return nil
	}
	c, err := newChecker()
	if err != nil {
		return err
	}
	defer c.close()
	for key, s := range e.sessions {
		up, err := c.up(s)
		if err != nil {
			return err
		}
		if !up {
			delete(e.sessions, key)
		}
	}
	return nil
}

// elementsOf returns the sessions with these keys as elements of the set of a
// family.
func elementsOf(keys []string, f family) (all []nftables.SetElement) {
	for _, key := range keys {
		if len(key) == 2*int(f.size)+8 {
			all = append(all, nftables.SetElement{Key: []byte(key)})
		}
	}
	return all
}

// queueEarlier puts messages into c that add elements to the sets, and delete
// others, which need not be there.
func (b *Backend) queueEarlier(c *nftables.Conn, add, remove []string) error {
	var failed error
	for _, f := range families {
		set := b.beforeSet(f)
		for part := range slices.Chunk(elementsOf(remove, f), chunk) {
			failed = errors.Join(failed, c.SetAddElements(set, part), c.SetDeleteElements(set, part))
		}
		for part := range slices.Chunk(elementsOf(add, f), chunk) {
			failed = errors.Join(failed, c.SetAddElements(set, part))
		}
	}
	return failed
}

// earlierChanges returns what is to be added to the sets and deleted from them,
// so that they hold what was planned.
func (b *Backend) earlierChanges(before structure, rebuild bool) (add, remove []string, err error) {
	there := map[string]bool{}
	if !rebuild && slices.Contains(before.Sets, b.beforeSet(families[0]).Name) {
		if there, err = b.readEarlier(); err != nil {
			return nil, nil, err
		}
	}
	for key := range b.coming.sessions {
		if !there[key] {
			add = append(add, key)
		}
	}
	for key := range there {
		if _, ours := b.coming.sessions[key]; !ours {
			remove = append(remove, key)
		}
	}
	return add, remove, nil
}

const (
	checkInterval   = 5 * time.Second // between two looks at sessions from before the guard
	checkAtOnce     = 512             // of them, in one look: some milliseconds
	refreshInterval = setTimeout / 4  // of elements whose session is still up
)

// watchEarlier takes sessions that are over out of the sets until ctx is done.
// While there are none it sleeps.
func (b *Backend) watchEarlier(ctx context.Context) {
	timer := time.NewTimer(checkInterval)
	defer timer.Stop()
	var waiting []session // to be looked at in this round
	refreshed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.earlierNoted:
			timer.Reset(checkInterval)
			continue
		case <-timer.C:
		}
		if len(waiting) == 0 {
			if b.turn.take(ctx) != nil {
				return
			}
			if b.earlier != nil && b.guard != nil {
				waiting = slices.Collect(maps.Values(b.earlier.sessions))
			}
			b.turn.release()
			if len(waiting) == 0 {
				continue
			}
		}
		now := waiting[:min(len(waiting), checkAtOnce)]
		if err := b.takeOut(ctx, now); err != nil {
			b.log.Debug("nftables: sessions from before the guard cannot be looked at", "error", err)
		} else {
			waiting = waiting[len(now):]
		}
		if time.Since(refreshed) > refreshInterval {
			if err := b.refreshEarlier(ctx); err == nil {
				refreshed = time.Now()
			}
		}
		timer.Reset(checkInterval)
	}
}

// takeOut takes those of some sessions out of the sets that are over.
func (b *Backend) takeOut(ctx context.Context, some []session) error {
	c, err := newChecker()
	if err != nil {
		return err
	}
	defer c.close()
	var over []session
	for _, s := range some {
		up, err := c.up(s)
		if err != nil {
			return err
		}
		if !up {
			over = append(over, s)
		}
	}
	if len(over) == 0 {
		return nil
	}
	if err := b.turn.take(ctx); err != nil {
		return err
	}
	defer b.turn.release()
	var keys []string
	for _, s := range over {
		if b.earlier.sessions[s.key()].ID == s.ID {
			delete(b.earlier.sessions, s.key()) // a restart looks whether it is up, so it need not be saved
			keys = append(keys, s.key())
		}
	}
	if b.guard == nil {
		return nil
	}
	return b.talk("take out sessions that are over", func(c *nftables.Conn) error {
		return errors.Join(b.queueEarlier(c, nil, keys), c.Flush())
	})
}

// refreshEarlier gives the elements of sessions their whole time again. The
// kernel deletes an element whose daemon no longer does so.
func (b *Backend) refreshEarlier(ctx context.Context) error {
	if err := b.turn.take(ctx); err != nil {
		return err
	}
	defer b.turn.release()
	if b.guard == nil {
		return nil
	}
	keys := slices.Collect(maps.Keys(b.earlier.sessions))
	return b.talk("refresh sessions from before the guard", func(c *nftables.Conn) error {
		return errors.Join(b.queueEarlier(c, keys, keys), c.Flush())
	})
}
