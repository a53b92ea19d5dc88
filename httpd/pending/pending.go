// Package pending bounds the connections of a listener whose request heads are
// not complete yet.
//
// A [Set] holds them, the oldest first, whether a goroutine of their own reads them
// or an event loop. It resets the oldest to make room for others, those whose time
// is over, and all of them when the listener closes. Start with [Set.Add].
package pending

import (
	"container/list"
	"errors"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An Entry is one pending connection. An Entry may be added again after it has
// left the set.
type Entry struct {
	Closer   io.Closer // closing it resets it
	Reader   Reader    // waits for more of the head; nil: a goroutine does, which bounds the time
	Deadline time.Time // when Expire resets the connection, if it has a Reader

	// Guarded by the set's lock.
	busy  bool // its reader is reading it: nobody else may close it
	place *list.Element
}

// A Reader waits for the heads of connections that have no goroutine of their own.
// The set calls it with its lock held, so it must not call the set.
type Reader interface {
	Watch(*Entry) error // the entry enters the set; after an error it does not
	Forget(*Entry)      // the entry has left the set
}

// Counts are the connections that a set has reset. Several sets may share one.
type Counts struct {
	TooSlow atomic.Uint64 // their heads did not end in time
	Evicted atomic.Uint64 // to make room for others
	Starved atomic.Uint64 // because descriptors or memory ran out
}

// CountSlow counts a connection whose time was over before its head had ended, if
// that is what the error of reading it says.
func (c *Counts) CountSlow(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.TooSlow.Add(1)
	}
}

// A Set is the pending connections of one listener. Make it with [New].
type Set struct {
	counts  *Counts
	mu      sync.Mutex
	entries list.List // of *Entry, the oldest first
	closed  bool
}

// New returns a set without connections.
func New(counts *Counts) *Set { return &Set{counts: counts} }

// Add adds a connection and reports whether it is pending now; if not, it has been
// reset. While the set has max connections or more, the oldest goes.
func (s *Set) Add(e *Entry, max int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		e.Closer.Close()
		return false
	}
	for s.entries.Len() >= max && s.evictOldest(&s.counts.Evicted) {
	}
	// With the lock held, so that nobody closes the connection in between.
	if e.Reader != nil && e.Reader.Watch(e) != nil {
		e.Closer.Close()
		return false
	}
	e.place = s.entries.PushBack(e)
	return true
}

// Remove removes a connection that is no longer pending, if it is still in the set.
func (s *Set) Remove(e *Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(e)
}

func (s *Set) remove(e *Entry) {
	if e.place == nil {
		return
	}
	s.entries.Remove(e.place)
	e.place = nil
	if e.Reader != nil {
		e.Reader.Forget(e)
	}
}

// Take reserves a connection for its reader: nobody closes it until Remove or
// PutBack. It reports false if the connection has been reset.
func (s *Set) Take(e *Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.place == nil {
		return false
	}
	e.busy = true
	return true
}

// PutBack ends what Take began, if the head is still incomplete.
func (s *Set) PutBack(e *Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.busy = false
	if s.closed {
		s.remove(e)
		e.Closer.Close()
	}
}

// Evict resets the oldest connection, because descriptors or memory ran out. It
// reports whether there was one.
func (s *Set) Evict() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evictOldest(&s.counts.Starved)
}

// ceiling returns the first descriptor that pending connections must leave free.
// Whatever strangers do, commands, reloads, files and the admin API need some.
var ceiling = sync.OnceValue(func() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return math.MaxInt
	}
	return int(min(limit.Cur-min(limit.Cur/4, 64), math.MaxInt32))
})

// Spare evicts connections if a new one has got one of the last descriptors. The
// kernel gives the lowest free number, so that many are in use. It reports whether
// some were evicted.
func (s *Set) Spare(fd int) (evicted bool) {
	for n := fd - ceiling(); n >= 0 && s.Evict(); n-- {
		evicted = true
	}
	return evicted
}

func (s *Set) evictOldest(counter *atomic.Uint64) bool {
	for place := s.entries.Front(); place != nil; place = place.Next() {
		if e := place.Value.(*Entry); !e.busy {
			s.remove(e)
			counter.Add(1) // before the client can notice
			e.Closer.Close()
			return true
		}
	}
	return false
}

// Expire resets the connections with a Reader whose deadline has passed. It returns
// the next deadline; zero: there is none.
func (s *Set) Expire(now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for place := s.entries.Front(); place != nil; {
		e := place.Value.(*Entry)
		place = place.Next()
		switch {
		case e.Reader == nil || e.busy:
		case e.Deadline.After(now):
			return e.Deadline
		default:
			s.remove(e)
			s.counts.TooSlow.Add(1)
			e.Closer.Close()
		}
	}
	return time.Time{}
}

// Close resets all connections, and each that is added later.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for uncounted := new(atomic.Uint64); s.evictOldest(uncounted); {
	}
}

// Len returns how many connections are pending.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries.Len()
}
