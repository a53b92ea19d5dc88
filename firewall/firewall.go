// Package firewall keeps doors closed and lets single clients through them for
// a limited time. Start with [NewGate] and [Gate.Run].
//
// A [Door] is a set of ports that stays closed. A [Grant] lets one client through one door
// until it expires. The [Gate] owns the grants: it decides which are opened, extended and
// closed, and commits the requests that wait as one transaction of its [Backend]. The
// backend ends a grant when it expires, so that doors close even if this process is dead.
//
// A request goes through request.go (queue and commit), plan.go (what the transaction
// changes) and grants.go (what the gate remembers). A grant ends by a request, when its
// time is over (grants.go), or because its client was banned or its door is gone (bans.go,
// guard.go): those are revoked with what could not be revoked before. reconcile.go compares the firewall with
// the gate and repairs it. firewall/nft is the backend on nftables; [Memory] touches no
// firewall. firewall/firewalltest is the contract of both.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// A Door is a group of ports that the firewall keeps closed.
type Door struct {
	Name  string  // 1 to 32 of a–z 0–9 _ -, starting with a letter
	Ports []Ports // at least one; no port belongs to two doors
	// TTL is how long a grant lasts unless asked otherwise, 1 s to 24 h.
	TTL time.Duration
	// MaxTTL is the longest a grant may last from now, TTL to 24 h.
	MaxTTL time.Duration
	// Established says what becomes of sessions when their grant ends.
	Established Established
	MaxGrants   int            // most grants at once, at least 1
	Connections int            // new connections a grant allows, 0 = any number
	Forward     netip.AddrPort // where to send granted packets instead of here; zero: nowhere else
	Prefix4     int            // bits of an IPv4 client's address that a grant covers, 1 to 32
	Prefix6     int            // bits of an IPv6 client's address that a grant covers, 1 to 128
}

// Scope returns the prefix that a grant for client covers at this door.
func (d Door) Scope(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := d.Prefix6
	if client.Is4() {
		bits = d.Prefix4
	}
	p, err := client.Prefix(bits)
	if err != nil { // a door that was not validated: the narrowest scope
		return netip.PrefixFrom(client, client.BitLen())
	}
	return p
}

// Ports is a range of ports of one protocol, both ends included.
type Ports struct {
	Protocol    Protocol
	First, Last uint16
}

// String writes ports as the configuration has them: 22/tcp, 60000-61000/udp.
func (p Ports) String() string {
	if p.First == p.Last {
		return fmt.Sprintf("%d/%s", p.First, p.Protocol)
	}
	return fmt.Sprintf("%d-%d/%s", p.First, p.Last, p.Protocol)
}

// Protocol is a transport protocol's IANA number.
type Protocol uint8

// The protocols that a door may guard.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Established says what becomes of a session when the grant it began under
// ends.
type Established uint8

const (
	Keep Established = iota // it lives on
	Cut                     // it ends with the grant
)

func (e Established) String() string {
	if e == Cut {
		return "cut"
	}
	return "keep"
}

// A Grant is one client's permission to pass one door until it expires. There
// is never more than one grant for the same door and client.
type Grant struct {
	ID       string       // unique among the grants that run, kept across restarts
	Door     string       // the door's name
	Client   netip.Prefix // masked; a single address unless the door widens it
	Sequence string       // what opened it; empty: an administrator
	User     string       // whose one-time code opened it; empty: nobody's
	Opened   time.Time
	Expires  time.Time
	Packets  uint64 // that passed under the grant
	Bytes    uint64
}

// ClientString writes a client as people read it: an address, or a prefix if it
// covers more than one.
func ClientString(client netip.Prefix) string {
	if client.IsSingleIP() {
		return client.Addr().String()
	}
	return client.String()
}

// Mode says what the backend does with packets to a guarded port that no
// grant covers.
type Mode uint8

const (
	Guarded Mode = iota // drops them
	Sets                // leaves them to the administrator's own rules
)

func (m Mode) String() string {
	if m == Sets {
		return "sets"
	}
	return "guard"
}

// A Guard is the whole of what a backend has to keep.
type Guard struct {
	Doors []Door
	Mode  Mode
	Mark  uint32         // set on packets that a grant lets through, ORed to what they carry
	Allow []netip.Prefix // networks that need no grant
	Owner bool           // the table belongs to this process; see the backend
	Shield
}

// A Shield keeps clients from listeners: those that are banned, and new
// connections that come too fast. Allowed networks and Exempt are never kept
// away. An IPv6 client is its /64.
type Shield struct {
	BanPorts  []uint16      // TCP ports that a ban closes
	RatePorts []uint16      // TCP ports to which new connections are limited
	Rate      int           // new connections of a client in Per; 0: any number
	Per       time.Duration // a second, a minute or an hour
	Burst     int           // that may come at once
	Exempt    []netip.Prefix
}

// Shielded reports whether there is anything that a ban or a limit keeps
// clients from.
func (g Guard) Shielded() bool {
	return g.Mode == Guarded && len(g.BanPorts)+len(g.RatePorts) > 0
}

// A Ban keeps a client from the listeners until its time is over.
type Ban struct {
	Client netip.Prefix // an IPv4 address or an IPv6 /64
	Until  time.Time    // in the past: the ban is lifted
}

// Offender returns what a ban of a client covers.
func Offender(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := 32
	if client.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(client, bits).Masked()
}

// Door returns the door of a name, or nil.
func (g Guard) Door(name string) *Door {
	for i := range g.Doors {
		if g.Doors[i].Name == name {
			return &g.Doors[i]
		}
	}
	return nil
}

// A Change is one part of a transaction.
type Change struct {
	// Grant to set: it holds from now until Expires, whether or not one for
	// the same Door and Client was there. Its Packets and Bytes are what it
	// has counted so far; a backend goes on from the greater of these and
	// its own.
	Grant Grant
	// Close ends the grant for Door and Client instead, if there is one.
	Close bool
	// New promises that there is no grant for Door and Client. If there is one
	// after all, it may stay unchanged.
	New bool
	// Again puts the grant back as it was: the count of its connections goes on.
	// Otherwise it starts from zero.
	Again bool
	// Spent makes the grant allow no further connections, if its door counts
	// them, because the count is no longer known.
	Spent bool
}

// Held is an element in a door's set in the firewall: a grant, or an element that somebody
// else has added.
type Held struct {
	// Grant is read from the element's comment. Only the door and the client of
	// a foreign element are known.
	Grant
	Origin Origin
	// Ends is when the firewall removes the element. It differs from Expires if
	// somebody has changed the element's timeout.
	Ends time.Time
	// Spent reports that the number of its connections is unknown.
	Spent bool
}

// Origin says who added an element.
type Origin uint8

const (
	// Foreign: not this program, or it did before the machine was booted.
	Foreign Origin = iota
	// Ours: this program, since the machine was booted.
	Ours
	// Earlier: the version of this program before ends were written down, by
	// all appearance since the machine was booted. Expires is Ends.
	Earlier
)

// By identifies the process that has changed the firewall.
type By struct {
	Process string // empty: unknown
	PID     int
}

func (b By) String() string {
	if b.Process == "" {
		return "an unknown process"
	}
	return fmt.Sprintf("%s (process %d)", b.Process, b.PID)
}

// A Backend keeps doors closed. Its methods may be called from several
// goroutines, and return when their context ends, even if the firewall does not
// answer. After an error the state of the firewall is unknown until the next Read
// succeeds, except where a sentinel error says more.
type Backend interface {
	// Guard guards g, and nothing else, in one transaction. Grants that the
	// firewall holds for doors in g stay; those in grants that are missing and
	// have not expired are put back. A second call with the same arguments
	// changes nothing that a packet could notice.
	Guard(ctx context.Context, g Guard, grants []Grant) error
	// Commit carries out all changes or none. Grants that have expired
	// already are left out.
	Commit(ctx context.Context, changes []Change) error
	// Check returns ErrNotGuarded if what the last Guard put there, grants
	// and bans apart, is no longer there whole or has been added to. Its cost
	// does not grow with the number of grants.
	Check(ctx context.Context) error
	// Read returns the truth: all that the firewall holds now in the sets of
	// the doors, in no order, or ErrNotGuarded as Check does.
	Read(ctx context.Context) ([]Held, error)
	// Traffic returns those of grants that the firewall holds, with the packets and bytes
	// that have passed under them until now. Its cost grows with the number of grants
	// that are asked for, not of those that there are.
	Traffic(ctx context.Context, grants []Grant) ([]Grant, error)
	// Ban sets and lifts bans.
	Ban(ctx context.Context, bans []Ban) error
	// Bans returns the bans that the firewall holds now: those that this
	// program has set since the machine was booted, and others.
	Bans(ctx context.Context) (ours, foreign []Ban, err error)
	// EndSessions ends the sessions that began under grants, after these have
	// ended. Sessions from before the guard live on.
	EndSessions(ctx context.Context, grants []Grant) error
	// Expel ends the sessions that elements of somebody else have let in. Door and
	// Client of each intruder are those of the element. Sessions from before the
	// guard live on, and those of clients that have a grant or need none.
	Expel(ctx context.Context, intruders []Grant) error
	// Changed receives a value when somebody else may have changed the firewall.
	// The backend may report too many changes, and may miss some, so its reader
	// calls Read then, and polls as well.
	Changed() <-chan By
	// Asleep returns how long the machine has been suspended since it was
	// booted. The clocks of this process and of the firewall stand still
	// meanwhile; the gate corrects for that, so that grants end on time.
	Asleep() time.Duration
	// Unguard removes everything that Guard has written, grants included. It is
	// no error if there is nothing.
	Unguard(ctx context.Context) error
	// Close releases the backend's resources and leaves the firewall as it
	// is.
	Close() error
}

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotGuarded: the firewall does not hold what Guard put there.
	ErrNotGuarded = errors.New("the doors are not guarded")
	// ErrPermission: the process may not change the firewall.
	ErrPermission = errors.New("no permission to change the firewall")
	// ErrUnsupported: the kernel lacks what the backend needs.
	ErrUnsupported = errors.New("the kernel does not support it")
	// ErrFull: the firewall has no room for another grant.
	ErrFull = errors.New("no room for another grant")
	// ErrNoDoor: there is no door of that name.
	ErrNoDoor = errors.New("no such door")
	// ErrForward: the door forwards to an address of the other family.
	ErrForward = errors.New("the door forwards to an address of the other family")
	// ErrNoGrant: there is no grant of that id.
	ErrNoGrant = errors.New("no such grant")
	// ErrUnguarded: nothing is guarded yet, or the guard was taken away on
	// purpose; nothing opens until it is put up.
	ErrUnguarded = errors.New("nothing is guarded")
	// ErrBusy: more waits for the gate than it can hold.
	ErrBusy = errors.New("too many openings wait")
	// ErrContested: somebody keeps changing what was put right.
	ErrContested = errors.New("somebody keeps changing the firewall")
	// ErrStopped: the gate does not run any more.
	ErrStopped = errors.New("the gate has stopped")
)
