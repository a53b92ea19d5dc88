package firewall

import "context"

// Closures remembers over restarts which grants were closed early, because somebody may
// load a saved ruleset that brings their elements back.
type Closures interface {
	// Close remembers grants as closed until they would have expired. Run calls it, so
	// it must not wait for a disk.
	Close(grants []Grant)
	// Closed reports whether a grant was closed.
	Closed(id string) bool
	// Known returns an error if the grants that an earlier run closed are unknown.
	Known() error
	// Upgrade reports whether this is the first start of a version that remembers
	// closures. It ensures that no later start is.
	Upgrade() bool
	// Settle waits until what Close was given is stored, or storing it has failed.
	Settle(ctx context.Context)
}

// noClosures is for a gate whose backend keeps nothing over a restart.
type noClosures struct{}

func (noClosures) Close([]Grant)          {}
func (noClosures) Closed(string) bool     { return false }
func (noClosures) Known() error           { return nil }
func (noClosures) Upgrade() bool          { return false }
func (noClosures) Settle(context.Context) {}

// Remember makes the gate use c. Call it before Run.
func (g *Gate) Remember(c Closures) { g.closures = c }
