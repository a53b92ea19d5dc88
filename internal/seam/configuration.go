package seam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"webknock/sequence"
)

// A Configuration is what the front has to know of the keeper's configuration, and
// nothing else: it names no file, no command and no target of notices, and says of
// doors only which names a ticket may ask for.
type Configuration struct {
	Listeners []ListenerOptions
	Clients   Clients
	Sequences []Sequence
	Users     []User
	Ban       BanRule
	Decoys    []string       // paths; one request bans
	Exempt    []netip.Prefix // networks that are never banned
}

// ListenerOptions say what the front does with the connections of one address.
type ListenerOptions struct {
	Address        string         // as configured
	TLS            *TLS           // nil: plain HTTP
	Proxies        []netip.Prefix // networks whose peers may speak for a client
	ClientAddress  string         // how they do: peer, x-forwarded-for, forwarded, x-real-ip, proxy-protocol
	MaxConnections int
	Cover          Cover
}

// TLS is how a listener encrypts.
type TLS struct {
	ServerNames  []string // others are refused; empty: any
	Certificates []Certificate
	// ACME says that each certificate is for the names that stand in it alone, that
	// there may be none yet, and that challenges are answered. Otherwise there is one
	// certificate, for any name.
	ACME bool
}

// A Certificate is a chain and its private key, both in PEM.
type Certificate struct{ Chain, Key []byte }

// A Cover is what every request gets to see. The zero Cover drops.
type Cover struct {
	Status int    // of a constant response; 0: there is none
	Type   string // its Content-Type; empty: it has no body
	Body   []byte
	Proxy  string // URL of the real site; empty: there is none
}

// Clients bounds what is remembered of clients.
type Clients struct {
	Max        int // in progress at once
	IPv4Prefix int // bits of an IPv4 address that make a client
	IPv6Prefix int // bits of an IPv6 address that make a client
}

// A BanRule says when a client is banned, and for how long.
type BanRule struct {
	Knocks      int // without a completion, within the time below; 0: never
	Within, For time.Duration
}

// A User is a named secret.
type User struct {
	Name   string
	Secret []byte
}

// A Sequence is what the front matches, and whose one-time codes and tickets count.
type Sequence struct {
	Name         string
	Steps        []Step
	Window       time.Duration
	Strict       bool
	Ignore       []string
	Users        []string // who may use the one-time steps; empty: all users
	Opens        []string // doors that a ticket may name
	AllowAddress bool     // a ticket may name an address
}

// A Step is a trigger as it is written, with its conditions.
type Step struct {
	Kind    string // exact, hash, regex or template
	Trigger string
	Method  string
	Host    string
	Query   map[string]string
	Scheme  string
	Within  time.Duration
}

// The kinds of steps.
const (
	exact    = "exact"
	hash     = "hash"
	regex    = "regex"
	template = "template"
)

// StepOf returns a step as a value.
func StepOf(s sequence.Step) Step {
	v := Step{Method: s.Method, Host: s.Host, Query: s.Query, Scheme: s.Scheme, Within: s.Within}
	switch t := s.Trigger.(type) {
	case sequence.Exact:
		v.Kind, v.Trigger = exact, string(t)
	case sequence.Hash:
		v.Kind, v.Trigger = hash, string(t)
	case sequence.Regex:
		v.Kind, v.Trigger = regex, string(t)
	case sequence.Template:
		v.Kind, v.Trigger = template, string(t)
	default:
		panic(fmt.Sprintf("a kind of trigger without a name: %T", t))
	}
	return v
}

// step returns what StepOf has made a value of.
func (s Step) step() (sequence.Step, error) {
	step := sequence.Step{
		Conditions: sequence.Conditions{Method: s.Method, Host: s.Host, Query: s.Query, Scheme: s.Scheme},
		Within:     s.Within,
	}
	switch s.Kind {
	case exact:
		step.Trigger = sequence.Exact(s.Trigger)
	case hash:
		step.Trigger = sequence.Hash(s.Trigger)
	case regex:
		step.Trigger = sequence.Regex(s.Trigger)
	case template:
		step.Trigger = sequence.Template(s.Trigger)
	default:
		return sequence.Step{}, fmt.Errorf("a step of the unknown kind %q", s.Kind)
	}
	return step, nil
}

// Spec returns what package sequence compiles.
func (s Sequence) Spec() (sequence.Spec, error) {
	spec := sequence.Spec{Name: s.Name, Window: s.Window, Strict: s.Strict, Ignore: s.Ignore}
	for _, v := range s.Steps {
		step, err := v.step()
		if err != nil {
			return sequence.Spec{}, fmt.Errorf("sequence %s: %w", s.Name, err)
		}
		spec.Steps = append(spec.Steps, step)
	}
	return spec, nil
}

// OneTime reports whether a step of the sequence takes a one-time code.
func (s Sequence) OneTime() bool {
	return slices.ContainsFunc(s.Steps, func(step Step) bool { return step.Kind == template })
}

// Admits reports whether a user may use the one-time steps of the sequence. It is
// false if there are none.
func (s Sequence) Admits(user string) bool {
	return s.OneTime() && (len(s.Users) == 0 || slices.Contains(s.Users, user))
}
