package track

import "sync/atomic"

// A Bound limits the clients in progress of all trackers that share it. The
// zero Bound allows none. Goroutines may share it.
type Bound struct {
	max, count atomic.Int64
}

// NewBound returns a bound of max clients.
func NewBound(max int) *Bound {
	b := new(Bound)
	b.SetMax(max)
	return b
}

// SetMax changes the bound. Clients beyond it stay until they are done.
func (b *Bound) SetMax(max int) { b.max.Store(int64(max)) }

// Count returns how many clients are in progress. It includes expired clients
// that have not been swept yet.
func (b *Bound) Count() int { return int(b.count.Load()) }

// take takes a place, and reports whether one was free.
func (b *Bound) take() bool {
	if b.count.Add(1) > b.max.Load() {
		b.release()
		return false
	}
	return true
}

// release gives a place back.
func (b *Bound) release() { b.count.Add(-1) }
