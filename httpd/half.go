package httpd

import (
	"bytes"
	"container/list"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A half is a connection whose head is half read: by a goroutine of its own, or
// by a loop that has parked it until more of the head comes.
type half struct {
	conn *net.TCPConn // of a goroutine, which bounds the time; nil: it is parked

	// What follows is of one that is parked.
	loop     *loop
	service  *service // in force when it came
	fd       int
	serial   int32 // tells it from others of the loop that had the descriptor
	peer     netip.AddrPort
	head     []byte // that has come
	line     int    // where the line of head begins that is not complete
	deadline time.Time

	// What follows is guarded by halves.mu.
	busy  bool // being read by its loop: nobody else may close it
	place *list.Element
}

// end looks for the end of a head in all that has come of it, which begins where
// the head does. A head that is too large has an end as well: it is malformed.
func (h *half) end(head []byte) (end int, complete bool) {
	if end := headEnd(head[h.line:]); end >= 0 {
		return h.line + end, true
	}
	h.line = bytes.LastIndexByte(head, '\n') + 1
	return len(head), len(head) > MaxHead
}

// reset closes the connection, which resets it.
func (h *half) reset() {
	if h.conn != nil {
		h.conn.Close()
	} else {
		shut(h.fd)
	}
}

// Halves are the half-read connections of a listener, the oldest first.
type halves struct {
	mu      sync.Mutex
	list    list.List     // of *half
	parked  map[int]*half // by descriptor
	closed  bool
	refused *Refused
}

// Refused counts what a listener refuses at its bounds. Several listeners may share
// one.
type Refused struct {
	TooLarge     atomic.Uint64 // heads of more than MaxHead bytes, which count as malformed
	TooManyLines atomic.Uint64 // heads of more than MaxLines lines, which count as malformed
	TooSlow      atomic.Uint64 // heads that did not end within HeadTimeout
	Evicted      atomic.Uint64 // connections that were reset half-read, to make room for others
	Starved      atomic.Uint64 // connections that were reset half-read, because descriptors or memory ran out
}

// countSlow counts a connection whose time is over before its head has ended, if
// that is what err says.
func (r *Refused) countSlow(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		r.TooSlow.Add(1)
	}
}

// count counts a head that is beyond the bounds.
func (r *Refused) count(head []byte) {
	switch {
	case len(head) > MaxHead:
		r.TooLarge.Add(1)
	case len(head) > 2*MaxLines && bytes.Count(head, []byte{'\n'}) > MaxLines: // no line is shorter than 2 bytes but the last
		r.TooManyLines.Add(1)
	}
}

// add gives a connection a place and reports whether it has one; otherwise it
// has been reset. If there are max already the oldest goes.
func (hs *halves) add(h *half, max int) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed {
		h.reset()
		return false
	}
	for hs.list.Len() >= max && hs.evictOldest(&hs.refused.Evicted) {
	}
	if h.conn == nil {
		// Within the lock, so that nobody has closed the descriptor before.
		if err := h.loop.watch(h.fd, h.serial); err != nil {
			h.reset()
			return false
		}
		hs.parked[h.fd] = h
		h.loop.parked++
	}
	h.place = hs.list.PushBack(h)
	return true
}

// remove takes the place of a connection away, if it still has one.
func (hs *halves) remove(h *half) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.drop(h)
}

func (hs *halves) drop(h *half) {
	if h.place == nil {
		return
	}
	hs.list.Remove(h.place)
	h.place = nil
	if h.conn == nil {
		delete(hs.parked, h.fd)
		if h.loop.parked--; h.loop.parked == 0 && h.loop.stopping.Load() {
			h.loop.wake() // it has nothing left to do
		}
	}
}

// take returns what a loop has parked, for it to read on; nil: it was reset.
func (hs *halves) take(lp *loop, fd int, serial int32) *half {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.parked[fd]
	if h == nil || h.loop != lp || h.serial != serial {
		return nil
	}
	h.busy = true
	return h
}

// putBack ends what take began, if the head is still not complete.
func (hs *halves) putBack(h *half) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h.busy = false
	if hs.closed {
		hs.drop(h)
		h.reset()
	}
}

// evict resets the oldest connection, because descriptors or memory ran out, and
// reports whether there was one.
func (hs *halves) evict() bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.evictOldest(&hs.refused.Starved)
}

// ceiling is the number of the first descriptor that pending connections leave
// to the rest of the process: commands, reloads, files and the admin API need some
// whatever strangers do.
var ceiling = sync.OnceValue(func() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return math.MaxInt
	}
	return int(min(limit.Cur-min(limit.Cur/4, 64), math.MaxInt32))
})

// spare makes room for a connection with a descriptor if that is one of the last:
// the kernel gives the lowest number that is free, so as many are in use. The oldest
// connections go. It reports whether some did.
func (hs *halves) spare(fd int) (went bool) {
	for n := fd - ceiling(); n >= 0 && hs.evict(); n-- {
		went = true
	}
	return went
}

func (hs *halves) evictOldest(counter *atomic.Uint64) bool {
	for e := hs.list.Front(); e != nil; e = e.Next() {
		if h := e.Value.(*half); !h.busy {
			hs.drop(h)
			counter.Add(1) // before the client can know
			h.reset()
			return true
		}
	}
	return false
}

// expire resets the parked connections whose time is over, and returns when
// that of the next is; zero: there is none.
func (hs *halves) expire(now time.Time) (next time.Time) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for e := hs.list.Front(); e != nil; {
		h := e.Value.(*half)
		e = e.Next()
		switch {
		case h.conn != nil || h.busy:
		case h.deadline.After(now):
			return h.deadline
		default:
			hs.drop(h)
			hs.refused.TooSlow.Add(1)
			h.reset()
		}
	}
	return time.Time{}
}

// close resets all connections, and those that come later.
func (hs *halves) close() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.closed = true
	for ended := new(atomic.Uint64); hs.evictOldest(ended); {
	}
}

// parkedBy returns how many connections a loop has parked.
func (hs *halves) parkedBy(lp *loop) int {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return lp.parked
}

func (hs *halves) count() int {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.list.Len()
}
