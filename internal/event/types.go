package event

import (
	"net/http"
	"net/netip"
	"time"

	"webknock/firewall"
)

// Kind names a kind of event. The values are those of the admin API.
type Kind string

// The kinds.
const (
	KindKnock         Kind = "knock"
	KindCompletion    Kind = "completion"
	KindGrantOpened   Kind = "grant.opened"
	KindGrantExtended Kind = "grant.extended"
	KindGrantClosed   Kind = "grant.closed"
	KindGrantAdopted  Kind = "grant.adopted"
	KindGrantRefused  Kind = "grant.refused"
	KindRepair        Kind = "repair"
	KindBan           Kind = "ban"
	KindUnban         Kind = "unban"
	KindReload        Kind = "reload"
	KindCommand       Kind = "command"
	KindDegraded      Kind = "degraded"
	KindAdmin         Kind = "admin"
	KindFrontEnded    Kind = "front.ended"
	KindCommandsEnded Kind = "commands.ended"
)

// Kinds are all kinds.
var Kinds = []Kind{
	KindKnock, KindCompletion, KindGrantOpened, KindGrantExtended, KindGrantClosed, KindGrantAdopted, KindGrantRefused,
	KindRepair, KindBan, KindUnban, KindReload, KindCommand, KindDegraded, KindAdmin, KindFrontEnded, KindCommandsEnded,
}

// An Event is what happened: one of the types below.
type Event interface{ Kind() Kind }

// A Knock is one request that a listener has received, and what became of it. The
// front hands knocks over only while somebody subscribes to them, and under a flood
// not all of them: strangers send as many as they like.
type Knock struct {
	At       time.Time
	Client   netip.Addr
	Listener string // its address, as configured
	Outcome  Outcome
	Sequence string // that it matters to most; empty: to none
	Step     int    // of the sequence, that the knock matches, from 1; 0: none
	Steps    int    // of the sequence; 0: there is no sequence
	Why      string // one plain clause, which holds no path and nothing else that the client has sent
}

// Outcome says what became of a knock. The values are those of the admin API and of
// the metrics.
type Outcome string

// The outcomes.
const (
	Matched   Outcome = "matched"    // it takes its client to a step, or matches the step where the client is
	Completed Outcome = "completed"  // it completes a sequence
	Missed    Outcome = "missed"     // it takes its client nowhere: it matches no step, comes in the wrong order, or too late
	Ignored   Outcome = "ignored"    // the sequences ignore its path
	Malformed Outcome = "malformed"  // its head is not a request, or beyond the bounds; it matches nothing
	Banned    Outcome = "banned"     // its client is banned, and it was not looked at
	Prefetch  Outcome = "prefetch"   // a browser has sent it ahead of its user
	Replayed  Outcome = "replayed"   // its client has used the one-time code before
	WrongCode Outcome = "wrong_code" // its one-time code is invalid
	Untracked Outcome = "untracked"  // it matches a first step, but clients.max is reached
)

// Outcomes returns all outcomes.
func Outcomes() []Outcome {
	return []Outcome{Matched, Completed, Missed, Ignored, Malformed, Banned, Prefetch, Replayed, WrongCode, Untracked}
}

// A Completion is a client that has finished a sequence. The one-time codes of its
// run are used up, and no crash brings them back.
type Completion struct {
	At       time.Time // when the last knock came
	Sequence string
	Message  string // of the sequence's configuration
	Client   netip.Addr
	Address  netip.Addr // whom it opens for, if a ticket names another address than the client's; else the client
	User     string     // whose codes it was made with; empty: nobody's
	Request  *Request   // the last knock, for commands: it holds a trigger path; nil: it was malformed
}

// A Request is the request of a knock, as far as commands are told of it. It may
// hold secrets: the trigger path, cookies.
type Request struct {
	Method, Target, Proto, Host string
	Path, RawQuery              string // of Target; the path is percent-decoded
	Header                      http.Header
	Client                      netip.Addr
	Remote, Local               netip.AddrPort
	TLS                         bool
}

// A GrantOpened is a grant that is new.
type GrantOpened struct {
	Grant      firewall.Grant
	Completion *Completion // what opened it; nil: an administrator
}

// A GrantExtended is a grant that lasts longer than before.
type GrantExtended struct {
	Grant      firewall.Grant
	Completion *Completion // what extended it; nil: an administrator
}

// A GrantClosed is a grant that has ended.
type GrantClosed struct {
	Grant  firewall.Grant
	Reason string
}

// A GrantAdopted is a grant of an earlier run, which goes on.
type GrantAdopted struct{ Grant firewall.Grant }

// A GrantRefused is a completion that opens and closes nothing.
type GrantRefused struct {
	Completion    Completion
	Doors, Closes []string // that it asked for
	Err           error    // why
}

// A Repair is what the gate has put back after somebody else changed the guard.
type Repair struct{ Reason string }

// A Ban keeps a client from the listeners.
type Ban struct {
	Ban    firewall.Ban
	At     time.Time // when the knock came that it was banned for
	Reason string
}

// The reasons for bans.
const (
	TooManyKnocks = "too many knocks without a completion"
	Decoy         = "a decoy"
)

// An Unban is a ban that an administrator has lifted.
type Unban struct{ Client netip.Prefix }

// A Reload is an attempt to put the configuration file in force.
type Reload struct {
	File string
	Err  error // nil: the file is in force
}

// A Command is one that has been run, or could not be.
type Command struct {
	Program  string // the first of its arguments
	On       string // open, close or complete
	Sequence string
	Client   netip.Prefix
	User     string
	Door     string // of on: open and on: close
	Grant    string // likewise
	Result   string // done, failed, killed or not started
}

// A FrontEnded is a process of the front that has ended by itself. Another one is
// started; clients in progress start over.
type FrontEnded struct{ Reason string }

// A CommandsEnded is a process that runs commands and has ended by itself. The commands
// that ran have ended with it. Another one is started.
type CommandsEnded struct{ Reason string }

// A Degraded tells that problems begin, or that there are none any more.
type Degraded struct{ Problems []string } // none: all is well again

// An Admin is something that an administrator has done over the admin API.
type Admin struct {
	Act    string // like "closed grant abcd2345"
	UID    uint32 // who; valid only if Known
	Known  bool
	Client string // whom it is about, if anybody: an address or a prefix
	Door   string // likewise
	Grant  string // likewise
}

func (Knock) Kind() Kind         { return KindKnock }
func (Completion) Kind() Kind    { return KindCompletion }
func (GrantOpened) Kind() Kind   { return KindGrantOpened }
func (GrantExtended) Kind() Kind { return KindGrantExtended }
func (GrantClosed) Kind() Kind   { return KindGrantClosed }
func (GrantAdopted) Kind() Kind  { return KindGrantAdopted }
func (GrantRefused) Kind() Kind  { return KindGrantRefused }
func (Repair) Kind() Kind        { return KindRepair }
func (Ban) Kind() Kind           { return KindBan }
func (Unban) Kind() Kind         { return KindUnban }
func (Reload) Kind() Kind        { return KindReload }
func (Command) Kind() Kind       { return KindCommand }
func (Degraded) Kind() Kind      { return KindDegraded }
func (Admin) Kind() Kind         { return KindAdmin }
func (FrontEnded) Kind() Kind    { return KindFrontEnded }
func (CommandsEnded) Kind() Kind { return KindCommandsEnded }
