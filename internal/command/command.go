// Package command runs the commands of sequences.
//
// A [Runner] decides when one runs, a bounded number of them at once, and writes what comes
// of it to the log. An [Executor] runs them, without the daemon's privileges: [Direct] in
// this process, and package supervise in one that can do nothing else. A [Journal] makes sure that the commands for the end of a
// grant are started, and never twice, even if the daemon is killed.
package command

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"syscall"
	"time"

	"webknock/firewall"
)

// A Command is what is run, without a shell.
type Command struct {
	Argv        []string            // the first is an absolute path
	Credential  *syscall.Credential // whom it runs as; nil: as the daemon does
	Timeout     time.Duration       // after which it is killed
	Environment []string            // NAME=value, beside what it gets in any case

	Of    *Set // that it belongs to, for an executor in another process
	Index int  // in what its sequence has
}

// A Set is all commands of a configuration. It is never written to.
type Set struct {
	Sequences map[string][]Command // in the order of the configuration
}

// An Event is what a command is run for.
type Event string

// The events.
const (
	Complete Event = "complete" // a client has completed the sequence
	Open     Event = "open"     // a grant is new
	Close    Event = "close"    // a grant that the sequence opened has ended
)

// An Occasion is an event of a sequence, and what the command is told of it.
type Occasion struct {
	Event    Event
	Sequence string
	Client   netip.Prefix // who knocked, or whom the grant covers
	User     string       // whose one-time code it was; empty: nobody's
	Door     string       // this and what follows: of the grant
	Grant    string
	Expires  time.Time
	Reason   string   // why it ended
	Request  *Request // the knock; nil in a Close
}

// attributes returns what the log says with every line about the command.
func (o Occasion) attributes(c Command) []any {
	all := []any{"sequence", o.Sequence, "event", string(o.Event), "command", filepath.Base(c.Argv[0]), "client", firewall.ClientString(o.Client)}
	for _, optional := range [][2]string{{"door", o.Door}, {"grant", o.Grant}, {"user", o.User}} {
		if optional[1] != "" {
			all = append(all, slog.String(optional[0], optional[1]))
		}
	}
	return all
}
