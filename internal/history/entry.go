// Package history keeps what has happened: who came in, by which door and for how
// long, bans, reloads, repairs, and what administrators did.
//
// Start with [Log]: [Log.Add], [Log.Opened] and the like take what has happened, and
// [Log.Run] writes it into the store, in groups. [Query] reads.
//
// Entries are only ever added at one end and, when they are too old or too many,
// removed at the other. None is changed. So a grant has two entries: one for its
// opening and one for its end, which repeats what the first says. Query returns only
// the latter of the two.
package history

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Event names a kind of entry.
type Event string

// The kinds of entries.
const (
	Opened    Event = "opened"    // a grant that still runs
	Closed    Event = "closed"    // a grant that has ended
	Banned    Event = "banned"    // a client was banned
	Unbanned  Event = "unbanned"  // a ban was lifted
	Refused   Event = "refused"   // a completion that opened nothing
	Reload    Event = "reload"    // of the configuration; a reason says why it failed
	Repair    Event = "repair"    // of the guard
	Degraded  Event = "degraded"  // problems began
	Recovered Event = "recovered" // there were no problems any more
	Admin     Event = "admin"     // what an administrator did
	Lost      Event = "lost"      // entries are missing here
)

// An Entry is one thing that has happened. Fields that do not apply are zero.
type Entry struct {
	ID       uint64 // the place among all entries, from 1; set by Query
	Time     time.Time
	Event    Event
	Client   string // an address or a prefix
	Sequence string
	Door     string // of Refused there may be several, separated by commas
	User     string
	Grant    string // an id
	Reason   string
	Opened   time.Time // of a grant
	Expires  time.Time // of a grant; of a ban, its end
	Traffic  *Traffic  // of Closed; nil: unknown
	UID      *uint32   // of Admin; nil: unknown
}

// Traffic is what a client sent under a grant.
type Traffic struct{ Packets, Bytes uint64 }

// maxReason bounds the reason of an entry, in bytes.
const maxReason = 1024

// record is an entry as the store holds it: the time in ns since 1970, in eight
// bytes, and then this as JSON. Its field names are short because there may be many.
type record struct {
	Event    Event   `json:"e"`
	Client   string  `json:"c,omitempty"`
	Sequence string  `json:"s,omitempty"`
	Door     string  `json:"d,omitempty"`
	User     string  `json:"u,omitempty"`
	Grant    string  `json:"g,omitempty"`
	Reason   string  `json:"r,omitempty"`
	Opened   int64   `json:"o,omitempty"` // ms since 1970
	Expires  int64   `json:"x,omitempty"` // ms since 1970
	Packets  *uint64 `json:"p,omitempty"`
	Bytes    *uint64 `json:"b,omitempty"`
	UID      *uint32 `json:"i,omitempty"`
}

func (e Entry) encode() []byte {
	r := record{
		Event: e.Event, Client: e.Client, Sequence: e.Sequence, Door: e.Door, User: e.User, Grant: e.Grant, Reason: cut(e.Reason),
		Opened: milliseconds(e.Opened), Expires: milliseconds(e.Expires), UID: e.UID,
	}
	if e.Traffic != nil {
		r.Packets, r.Bytes = &e.Traffic.Packets, &e.Traffic.Bytes
	}
	text, _ := json.Marshal(r) // cannot fail
	return append(binary.BigEndian.AppendUint64(nil, uint64(e.Time.UnixNano())), text...)
}

// decode reads an entry of the store.
func decode(value []byte) (Entry, error) {
	at, err := timeOf(value)
	if err != nil {
		return Entry{}, err
	}
	var r record
	if err := json.Unmarshal(value[8:], &r); err != nil {
		return Entry{}, fmt.Errorf("an entry of the history is damaged: %w", err)
	}
	e := Entry{
		Time: at, Event: r.Event, Client: r.Client, Sequence: r.Sequence, Door: r.Door, User: r.User, Grant: r.Grant, Reason: r.Reason,
		Opened: fromMilliseconds(r.Opened), Expires: fromMilliseconds(r.Expires), UID: r.UID,
	}
	if r.Packets != nil && r.Bytes != nil {
		e.Traffic = &Traffic{*r.Packets, *r.Bytes}
	}
	return e, nil
}

// timeOf returns the time of an entry without reading the rest of it.
func timeOf(value []byte) (time.Time, error) {
	if len(value) < 8 {
		return time.Time{}, errors.New("an entry of the history is damaged: it has no time")
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(value))), nil
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilliseconds(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// cut bounds a reason. JSON replaces what is left of a character that is cut.
func cut(reason string) string {
	if len(reason) > maxReason {
		return reason[:maxReason] + "…"
	}
	return reason
}
