package admin

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// The types of the API's requests and answers. Times are RFC 3339, durations seconds.

// A List is never null in JSON.
type List[T any] []T

// MarshalJSON implements json.Marshaler.
func (l List[T]) MarshalJSON() ([]byte, error) {
	return json.Marshal(append([]T{}, l...))
}

// Counts has a count for each name. It is never null in JSON.
type Counts map[string]uint64

// MarshalJSON implements json.Marshaler.
func (c Counts) MarshalJSON() ([]byte, error) {
	if c == nil {
		c = Counts{}
	}
	return json.Marshal(map[string]uint64(c))
}

// Status is the answer to GET /v1/status.
type Status struct {
	Version   string         `json:"version"`
	StartedAt time.Time      `json:"started_at"`
	State     string         `json:"state"` // ok or degraded
	Problems  List[string]   `json:"problems"`
	Firewall  Firewall       `json:"firewall"`
	Listeners List[Listener] `json:"listeners"`
	Doors     List[Door]     `json:"doors"`
	Sequences List[Sequence] `json:"sequences"`
	Clients   int            `json:"clients"` // in progress
	Grants    int            `json:"grants"`
	// Processes are those of the daemon, the keeper first.
	Processes List[Process] `json:"processes"`
	// ConfirmBy is when a change is undone unless it is confirmed; nil: none waits.
	ConfirmBy *time.Time `json:"confirm_by,omitempty"`
	Shield    Shield     `json:"shield"`
	// Lost is how often the daemon has refused, lost or ignored something since it
	// started, by kind; every kind is there.
	Lost Counts `json:"lost"`
}

// The states of a daemon.
const (
	OK       = "ok"
	Degraded = "degraded"
)

// Process is one of the processes that the daemon is made of.
type Process struct {
	Name     string       `json:"name"` // keeper or front
	PID      int          `json:"pid"`
	User     string       `json:"user"`
	Confined List[string] `json:"confined"` // what it has given up: user, capabilities, no_new_privs, rlimits, landlock, seccomp
	Warnings List[string] `json:"warnings"` // what it could not give up, and why
}

// Firewall is what keeps the doors closed.
type Firewall struct {
	Backend string `json:"backend"`
	Mode    string `json:"mode"`
	Guarded bool   `json:"guarded"` // false: the guard was taken away
}

// Listener is an address that receives knocks.
type Listener struct {
	Address string `json:"address"`
	TLS     bool   `json:"tls"`
	Cover   string `json:"cover"`
	// Bound is the address and port that it has, which the configured address may leave
	// open.
	Bound       string `json:"bound"`
	Drops       bool   `json:"drops"`       // whether its cover drops connections, without an answer
	Connections int    `json:"connections"` // open now
	Knocks      uint64 `json:"knocks"`      // since the daemon started
}

// Door is a door and how many grants it has.
type Door struct {
	Name      string       `json:"name"`
	Ports     List[string] `json:"ports"`
	Grants    int          `json:"grants"`
	MaxGrants int          `json:"max_grants"`
	TTL       float64      `json:"ttl"` // of a grant, in seconds
}

// Shield is what keeps strangers from the listeners.
type Shield struct {
	Bans int `json:"bans"` // that hold
}

// Sequence is a sequence and how often it was completed since the daemon started.
type Sequence struct {
	Name        string `json:"name"`
	Steps       int    `json:"steps"`
	Completions uint64 `json:"completions"`
}

// Client is how far one client is in one sequence.
type Client struct {
	Client      string    `json:"client"`
	Sequence    string    `json:"sequence"`
	Step        int       `json:"step"` // steps matched
	Steps       int       `json:"steps"`
	LastKnockAt time.Time `json:"last_knock_at"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// Grant is one client's permission to pass one door.
type Grant struct {
	ID        string    `json:"id"`
	Door      string    `json:"door"`
	Client    string    `json:"client"` // an address, or a prefix
	Sequence  string    `json:"sequence"`
	User      string    `json:"user"`
	OpenedAt  time.Time `json:"opened_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Remaining float64   `json:"remaining"` // seconds
	Packets   uint64    `json:"packets"`
	Bytes     uint64    `json:"bytes"`
}

// Whose says for people by what somebody has got a grant: the user, else the sequence in
// brackets, else an administrator.
func Whose(user, sequence string) string {
	switch {
	case user != "":
		return user
	case sequence != "":
		return "[" + sequence + "]"
	}
	return "admin"
}

// Ban is a client that the listeners are closed to.
type Ban struct {
	Client    string    `json:"client"` // an address, or an IPv6 prefix
	ExpiresAt time.Time `json:"expires_at"`
	Remaining float64   `json:"remaining"` // seconds
}

// BanList is the answer to GET /v1/bans.
type BanList struct {
	Bans List[Ban] `json:"bans"`
}

// OpenRequest is the body of POST /v1/grants.
type OpenRequest struct {
	Door   string `json:"door"`
	Client string `json:"client"`        // an address
	TTL    string `json:"ttl,omitempty"` // a Go duration; empty: the door's own
}

// ExtendRequest is the body of POST /v1/grants/{id}/extend.
type ExtendRequest struct {
	TTL string `json:"ttl,omitempty"` // from now, a Go duration; empty: the door's own
}

// ReloadRequest is the optional body of POST /v1/reload.
type ReloadRequest struct {
	// Confirm is how long the daemon waits for a confirmation before it undoes the
	// change, as a Go duration of at least 1s; empty: the change stays.
	Confirm string `json:"confirm,omitempty"`
}

// ClientList and GrantList are the answers to GET /v1/clients and GET /v1/grants.
type (
	ClientList struct {
		Clients List[Client] `json:"clients"`
	}
	GrantList struct {
		Grants List[Grant] `json:"grants"`
	}
)

// Problem is an error as a problem document (RFC 9457).
type Problem struct {
	Type   string   `json:"type"`
	Title  string   `json:"title"`
	Status int      `json:"status"`
	Detail string   `json:"detail,omitempty"`
	Errors []string `json:"errors,omitempty"` // of a configuration, one a line
}

// NewProblem returns a problem whose title is that of its HTTP status.
func NewProblem(status int, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

func (p *Problem) Error() string {
	return strings.Join(append([]string{cmp.Or(p.Detail, p.Title)}, p.Errors...), "\n")
}
