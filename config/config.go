// Package config reads webknock's configuration file into one validated Config.
//
// All errors of a file are reported together, each with the place it stands at.
// Keys of features that this version does not have are refused, never ignored.
package config

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"webknock/firewall"
	"webknock/internal/notice"
	"webknock/sequence"
)

// Config is a whole, valid configuration. It is not to be changed.
type Config struct {
	File      string
	Listeners []Listener
	Clients   Clients
	Doors     []firewall.Door
	Sequences []Sequence
	Users     []User
	Firewall  Firewall
	Shield    Shield
	Admin     Admin
	Log       Log
	State     string          // directory
	Notify    []notice.Target // of all events and of sequences
	Warnings  Errors          // what is allowed, and should be mended
	Source    *Source         // nil: not read from a file
	files     []namedFile     // that the configuration names, and the daemon reads
}

// Listener is an address that receives knocks.
type Listener struct {
	Address        string // host:port, or systemd:NAME
	MaxConnections int    // heads being read at once
	TLS            *TLS   // nil: plain HTTP
	Proxies        []netip.Prefix
	ClientAddress  string // one of the words of the key
	Cover          Cover
}

// TLS is how a listener encrypts.
type TLS struct {
	Certificate, Key string   // files
	ACME             *ACME    // in place of the files
	ServerNames      []string // as hostname.ASCII has them; empty: any

	// Kept is in place of files that cannot be used any more; see Restore.
	Kept *tls.Certificate
	lost bool // there is no such certificate either
}

// ACME is how certificates are obtained.
type ACME struct {
	Domains   []string // host names, as hostname.ASCII has them
	Email     string   // empty: none
	Directory string   // URL; empty: Let's Encrypt
	CA        []byte   // roots to trust for the directory, in PEM; empty: the system's
}

// Cover is what every request gets to see. The zero Cover drops.
type Cover struct {
	Status   int
	Body     []byte
	BodyFile string
	Proxy    *url.URL
}

// Clients bounds what is remembered of clients.
type Clients struct {
	Max        int // in progress at once
	IPv4Prefix int // bits of an IPv4 address that make a client
	IPv6Prefix int // the same, of an IPv6 address
}

// Sequence is a sequence, and what completing it does.
type Sequence struct {
	sequence.Spec
	Opens        []string // doors
	Closes       []string // doors
	Run          []Command
	Users        []string // who may use the one-time steps; empty: all users
	AllowAddress bool     // a ticket may name another address to open for
	Message      string   // for the log
}

// Firewall says what keeps the doors.
type Firewall struct {
	Backend string // BackendNFTables or BackendMemory
	Table   string
	Guard   firewall.Guard
}

// Shield keeps clients from listeners.
type Shield struct {
	Rate   int           // new connections of a client to a listener that drops, in Per; 0: any number
	Per    time.Duration // a second, a minute or an hour
	Ban    Ban
	Decoys []string // paths; one request bans
}

// Ban says when a client is banned, and for how long.
type Ban struct {
	Knocks int           // without a completion, in Within; 0: never
	Within time.Duration // of the first of them
	For    time.Duration
	Doors  bool // a ban ends grants as well
}

// The backends.
const (
	BackendNFTables = "nftables"
	BackendMemory   = "memory"
)

// Admin says where the admin API is.
type Admin struct {
	Socket string // path
}

// Log says what is logged, and how.
type Log struct {
	Level  slog.Level
	Format string // auto, text, journal or json
}

// Error is one thing that is wrong with a file.
type Error struct {
	File      string
	Line, Col int    // from 1; 0: not known
	Key       string // path of the key, as doors[0].ttl; empty: the file
	Msg       string // what is wrong (what would be right)
}

func (e Error) Error() string {
	var s strings.Builder
	s.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&s, ":%d:%d", e.Line, e.Col)
	}
	if e.Key != "" {
		s.WriteString(": " + e.Key)
	}
	s.WriteString(": " + e.Msg)
	return s.String()
}

// Errors is all that is wrong with a file, in the order of the file.
type Errors []Error

func (e Errors) Error() string { return strings.Join(e.Lines(), "\n") }

// Lines returns the errors, a line each.
func (e Errors) Lines() []string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return lines
}
