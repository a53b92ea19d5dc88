package pending

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// reset is a connection that remembers whether it was reset.
type reset struct{ done bool }

func (r *reset) Close() error { r.done = true; return nil }

// reader records which connections it waits for.
type reader struct {
	waits map[*Entry]bool
	err   error
}

func (r *reader) Watch(e *Entry) error { r.waits[e] = true; return r.err }
func (r *reader) Forget(e *Entry)      { delete(r.waits, e) }

func entry(r Reader, deadline time.Time) (*Entry, *reset) {
	conn := new(reset)
	return &Entry{Closer: conn, Reader: r, Deadline: deadline}, conn
}

func TestNoMoreConnectionsArePendingThanMayBe(t *testing.T) {
	const max = 3
	var counts Counts
	set := New(&counts)
	var all []*reset
	var wg sync.WaitGroup
	for range 50 {
		e, conn := entry(nil, time.Time{})
		all = append(all, conn)
		wg.Go(func() { set.Add(e, max) })
	}
	wg.Wait()
	gone := 0
	for _, conn := range all {
		if conn.done {
			gone++
		}
	}
	if set.Len() != max || gone != 50-max || counts.Evicted.Load() != 50-max {
		t.Errorf("%d are pending, %d reset, %d counted", set.Len(), gone, counts.Evicted.Load())
	}
}

func TestTheOldestGoesFirst(t *testing.T) {
	set := New(new(Counts))
	var all []*reset
	var first *Entry
	for i := range 4 {
		e, conn := entry(nil, time.Time{})
		if i == 0 {
			first = e
		}
		set.Add(e, 10)
		all = append(all, conn)
	}
	set.Take(first) // its reader is reading it
	for set.Evict() && !all[2].done {
	}
	if got := fmt.Sprint(all[0].done, all[1].done, all[2].done, all[3].done); got != "false true true false" {
		t.Errorf("reset: %s", got)
	}
}

func TestADeadlineHoldsForConnectionsOfAReader(t *testing.T) {
	now := time.Now()
	var counts Counts
	set := New(&counts)
	r := &reader{waits: map[*Entry]bool{}}
	own, ownConn := entry(nil, time.Time{}) // its goroutine bounds the time
	busy, busyConn := entry(r, now.Add(-time.Second))
	late, lateConn := entry(r, now)
	early, earlyConn := entry(r, now.Add(time.Second))
	for _, e := range []*Entry{own, busy, late, early} {
		set.Add(e, 10)
	}
	set.Take(busy)
	if next := set.Expire(now); next != early.Deadline {
		t.Errorf("the next deadline is %v, want %v", next, early.Deadline)
	}
	if ownConn.done || busyConn.done || !lateConn.done || earlyConn.done || counts.TooSlow.Load() != 1 || r.waits[late] || !r.waits[early] {
		t.Errorf("reset: %v %v %v %v; %d counted", ownConn.done, busyConn.done, lateConn.done, earlyConn.done, counts.TooSlow.Load())
	}
	if set.Take(late) {
		t.Error("a connection that was reset can be read")
	}
	set.Remove(busy)
	if next := set.Expire(early.Deadline); !next.IsZero() || set.Len() != 1 {
		t.Errorf("next deadline %v, %d pending", next, set.Len())
	}
}

func TestAReaderThatCannotWaitGetsNoConnection(t *testing.T) {
	set := New(new(Counts))
	e, conn := entry(&reader{waits: map[*Entry]bool{}, err: errors.New("no memory")}, time.Now())
	if set.Add(e, 10) || !conn.done || set.Len() != 0 {
		t.Errorf("reset: %v, %d pending", conn.done, set.Len())
	}
}

// Also the one that is being read, as soon as its reader lets it go.
func TestAClosedSetResetsAll(t *testing.T) {
	var counts Counts
	set := New(&counts)
	r := &reader{waits: map[*Entry]bool{}}
	busy, busyConn := entry(r, time.Now())
	other, otherConn := entry(nil, time.Time{})
	set.Add(busy, 10)
	set.Add(other, 10)
	set.Take(busy)
	set.Close()
	if busyConn.done || !otherConn.done {
		t.Errorf("reset: %v while it is read, %v", busyConn.done, otherConn.done)
	}
	set.PutBack(busy)
	later, laterConn := entry(nil, time.Time{})
	if set.Add(later, 10) || !busyConn.done || !laterConn.done || set.Len() != 0 || len(r.waits) != 0 || counts.Evicted.Load() != 0 {
		t.Errorf("reset: %v, %v; %d pending", busyConn.done, laterConn.done, set.Len())
	}
}

func TestOnlyATimeoutCountsAsTooSlow(t *testing.T) {
	var counts Counts
	for _, err := range []error{nil, os.ErrClosed, context.Canceled, fmt.Errorf("read: %w", os.ErrDeadlineExceeded)} {
		counts.CountSlow(err)
	}
	if n := counts.TooSlow.Load(); n != 1 {
		t.Errorf("%d too slow, want 1", n)
	}
}
