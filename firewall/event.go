package firewall

import "time"

// An Event is something that happened to a grant or to the guard.
type Event struct {
	Kind    EventKind
	Time    time.Time
	Grant   Grant  // zero in a Repaired
	Reason  string // of a Closed or a Repaired
	Repairs int    // that a Repaired tells of
	Cause   any    // of the OpenRequest that opened or extended the grant
}

// EventKind says what happened.
type EventKind string

// What may happen.
const (
	Opened   EventKind = "grant.opened"
	Extended EventKind = "grant.extended"
	Closed   EventKind = "grant.closed"
	Adopted  EventKind = "grant.adopted"
	Repaired EventKind = "repair"
)

// Why a grant was closed.
const (
	Expired     = "expired"
	ByAdmin     = "closed by an administrator"
	BySequence  = "closed by a sequence"
	DoorRemoved = "its door was removed or changed"
	Banned      = "its client was banned"
	Unguarding  = "the guard was taken away"
)
