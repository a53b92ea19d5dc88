// Package seam has what the two halves of the daemon ask of each other.
//
// The front talks to strangers: listeners, TLS, sequences, one-time codes. The
// keeper holds the power: configuration, gate, admin API, commands. Neither
// imports the other. All they say to each other are the methods of [Keeper] and
// [Front], with values alone as arguments and results: no callback, no channel,
// no pointer into the other half, so that a socket between two processes carries
// it. Listening sockets go beside, from the keeper to the front.
package seam

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/ticket"
)

// ErrStopped is what a half answers that has been stopped.
var ErrStopped = errors.New("webknock is stopping")

// Keeper is what the front asks of the keeper. Complete, Ban and Knocks do not wait.
type Keeper interface {
	// Complete carries out a completion: it opens and closes doors, and runs
	// commands. The keeper finds out by itself what that is, and whether its
	// configuration allows it.
	Complete(Completion)
	// Ban keeps a client from the listeners in the kernel too, where that can be, if
	// the configuration says that clients are banned.
	Ban(Ban)
	// Knocks tells of knocks, oldest first, and how many others came meanwhile that are
	// not among them. The front calls it only while WatchKnocks asks for that, at most
	// every KnocksInterval, and with MaxKnocks knocks at most.
	Knocks(knocks []event.Knock, missed uint64)
	// UsedCodes returns which one-time codes and tickets were used. It fails if
	// another process has the record.
	UsedCodes() (onetime.Used, error)
	// RecordCodes records uses, all or none of them, and returns when no crash can
	// lose them. Its errors are those of onetime.Store.
	RecordCodes(onetime.Used) error
}

// The bounds of Keeper.Knocks.
const (
	MaxKnocks      = 256
	KnocksInterval = 100 * time.Millisecond
)

// A Completion is a client that has finished a sequence. The codes of its run are
// used up, and recorded as used.
type Completion struct {
	Sequence string // its name
	Client   netip.Addr
	At       time.Time       // when the last knock came
	Request  *event.Request  // the last knock; nil: it was malformed
	User     string          // whose codes it was made with; empty: there were none
	Code     *Code           // the last of them; nil: there were none
	Ticket   *ticket.Request // what a ticket of the run asks for; nil: there was none
}

// A Code identifies a one-time code as the record of used codes does.
type Code struct {
	Secret  ticket.KeyID
	Counter int64        // of TOTP; 0: it is a ticket
	Ticket  ticket.Nonce // of a ticket
}

// A Ban is a client that the front does not listen to any more.
type Ban struct {
	firewall.Ban
	At       time.Time // when the knock came that it is for
	ViaProxy bool      // a proxy has named the client: the kernel sees the proxy alone
	Reason   string
}

// Front is what the keeper asks of the front.
type Front interface {
	// Prepare makes ready for a configuration, without effect yet: it takes
	// descriptors of its own of the sockets whose addresses are new to it, and builds
	// the pipeline. There is a socket for each listener of the configuration, in its
	// order. If it fails it has changed nothing. Commit or Abort follows.
	Prepare(context.Context, Configuration, []Socket) error
	// Commit puts what Prepare has made ready in force. It fails only with
	// ErrStopped.
	Commit(context.Context) error
	// Abort undoes what Prepare has done.
	Abort()
	// UseCertificates replaces the certificates of a listener of the configuration in
	// force, by its address.
	UseCertificates(ctx context.Context, address string, all []Certificate) error
	// UseChallenges replaces the challenges that the listeners answer.
	UseChallenges(ctx context.Context, pending []Challenge) error

	// Stop closes the listeners, hands the keeper the completions of all that was
	// knocked before, and ends everything. It returns when that is done, or ctx is.
	Stop(context.Context) error

	// Ping returns when all shards have answered.
	Ping(context.Context) error
	// State returns the counters and what is wrong.
	State() State
	// WatchKnocks says whether the keeper wants to be told of knocks.
	WatchKnocks(bool)
	// Clients returns all clients in progress, in no order.
	Clients(context.Context) ([]Client, error)
	// Recent returns what is remembered of the client that an address belongs to.
	Recent(context.Context, netip.Addr) (Recent, error)
	// AdoptBans takes over bans of an earlier run.
	AdoptBans([]firewall.Ban)
	// Unban lifts a ban, if there is one.
	Unban(netip.Prefix)
}

// A Socket is a listening TCP socket that the keeper has bound, and keeps. Use the
// file by its SyscallConn: its Fd would have every accept(2) block.
type Socket struct {
	Address string // as configured
	File    *os.File
}

// A Challenge is what proves to a certificate authority that a domain is ours (RFC
// 8555, RFC 8737). It is answered on a plain listener or in a handshake.
type Challenge struct {
	Domain      string       // in lower case
	Path        string       // HTTP-01: the request target, of a GET
	Answer      []byte       // to that: a whole response
	Certificate *Certificate // TLS-ALPN-01: of the handshake; nil: it is HTTP-01
}

// A State is how the front is.
type State struct {
	Clients  int      // in progress
	Bans     int      // that hold
	Problems []string // what keeps it from its work
	Losses   []Loss

	Knocks      []KnockCount      // each outcome of each listener, also of listeners that are closed now
	Connections []ConnectionCount // of each listener
}

// A KnockCount is how many knocks of a listener have had one outcome.
type KnockCount struct {
	Listener string // its address, as configured
	Outcome  event.Outcome
	Count    uint64 // never falls
}

// A ConnectionCount is how many connections of a listener are open now.
type ConnectionCount struct {
	Listener string // its address, as configured
	Open     int
}

// A Loss is a kind of what was refused at a bound, lost or wrong, and how often
// that was.
type Loss struct {
	Kind    string // a short name, for programs
	Message string // for the log
	Level   slog.Level
	Count   uint64 // never falls
}

// Recent is what the front remembers of one client.
type Recent struct {
	Client netip.Prefix // widened as configured
	Knocks []Recalled   // the newest first, MaxRecalled at most
	// Progress is how far the client is, in no order.
	Progress []Client
	// BannedUntil is when a ban of the client ends; zero: it is not banned.
	BannedUntil time.Time
}

// The bounds of Recent.
const (
	MaxRecalled = 16 // knocks
	MaxPath     = 64 // bytes of a path
)

// A Recalled is a knock of before.
type Recalled struct {
	Knock    event.Knock // without its client
	Path     string      // as the client asked for it, cut if it is long; a secret if it is a step's
	ViaProxy bool        // a proxy has named the client
	Cause    Cause
}

// A Cause names why a knock did what it did. Advice is given by it.
type Cause string

// The causes.
const (
	NoStep      Cause = "no step"
	PassedOver  Cause = "passed over"
	StartedOver Cause = "started over"
	WrongOrder  Cause = "wrong order"
	LateWindow  Cause = "too late for the window"
	LateWithin  Cause = "too late for the step"
	Repeated    Cause = "repeated"
	Reached     Cause = "reached"
	Completed   Cause = "completed"
	WrongMethod Cause = "method"
	WrongScheme Cause = "scheme"
	WrongHost   Cause = "host"
	WrongQuery  Cause = "query"
	IgnoredPath Cause = "ignored"
	HeadTooLong Cause = "head too long"
	NoHost      Cause = "no host"
	Malformed   Cause = "malformed"
	Prefetch    Cause = "prefetch"
	UsedCode    Cause = "used code"
	WrongTime   Cause = "wrong time"
	WrongUser   Cause = "wrong user"
	TooManyCode Cause = "too many wrong codes"
	WrongCode   Cause = "wrong code"
	Untracked   Cause = "untracked"
	Banned      Cause = "banned"
)

// A Client is how far one client is in one sequence.
type Client struct {
	Client        netip.Prefix // widened as configured
	Sequence      string
	Step, Steps   int // matched, and all
	Last, Expires time.Time
}
