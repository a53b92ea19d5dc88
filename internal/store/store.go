// Package store keeps what must survive a crash and a reboot in one bbolt file,
// webknock.db, in the state directory.
//
// Start with [Store.Submit]: it queues a write, and [Store.Run] commits
// everything that waits as one transaction (group commit), so that a hundred
// codes used at once cost one fsync. A write that is done is on the disk.
//
// A disk that is full, read-only or gone makes each write fail; nothing blocks
// and nothing panics. The next write reopens the file, because bbolt refuses
// all calls on a handle after an error of the disk. So the store recovers
// by itself.
//
// The file is closed when nothing has used it for a second. So an administrator
// can copy it, or remount its file system read-only. The process keeps its
// lock of the state directory meanwhile: see [Dir].
package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	fileName      = "webknock.db"
	schemaVersion = 1
	lockTimeout   = 100 * time.Millisecond // how long to wait for another process's lock
	idleAfter     = time.Second            // how long the file stays open unused
	retryInterval = time.Second            // between two attempts to write what is kept
	closeTimeout  = 500 * time.Millisecond // how long Close waits for a disk that hangs
	maxQueue      = 1 << 16                // writes that may wait
	maxGroup      = 4096                   // writes in one transaction
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrBusy: more writes wait than the queue holds.
	ErrBusy = errors.New("too many writes wait for the disk")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("the store is closed")
)

// A Dir is the directory of the file. Own makes the directory if need be and
// keeps other processes out of it; it fails if another process has it. Own is
// called before every use of the file, since the directory may have been
// replaced.
type Dir interface {
	Own() error
	Path(name string) string
}

// A Write is one change of the file.
type Write struct {
	// Do makes the change. It may run more than once and must have no effect
	// beside those on the transaction. If it returns an error nothing of it is
	// kept, and Done gets the error.
	Do func(*Tx) error
	// Done is called from the goroutine of Run with the outcome: nil when the
	// change is on the disk. It must not block. It may be nil.
	Done func(error)
	// Keep has a change that fails because of the disk tried again until it
	// succeeds. Done is called after every attempt. It does not help against
	// ErrBusy and ErrClosed.
	Keep bool
}

func (w Write) done(err error) {
	if w.Done != nil {
		w.Done(err)
	}
}

// A Store is the file. It may be used from several goroutines.
type Store struct {
	dir  Dir
	wake chan struct{}

	mu     sync.Mutex
	queue  []Write
	closed bool

	file file
}

// New returns the store of a directory, which is not touched before the first
// read or write.
func New(dir Dir) *Store {
	s := &Store{dir: dir, wake: make(chan struct{}, 1)}
	s.file.dir = dir
	return s
}

// Path returns where the file is.
func (s *Store) Path() string { return s.dir.Path(fileName) }

// View runs f on the current state. The values that f sees are valid until it
// returns. Without a file everything is empty. A file on a read-only file system
// can be read.
func (s *Store) View(f func(*Tx) error) error {
	return s.file.use(false, func(tx *Tx) error { return own(f(tx)) })
}

// Update commits one change now, beside those that wait. Prefer Submit where
// the caller need not wait.
func (s *Store) Update(f func(*Tx) error) error {
	return s.file.use(true, func(tx *Tx) error { return own(f(tx)) })
}

// Submit queues a write for Run. It does not wait.
func (s *Store) Submit(w Write) {
	s.mu.Lock()
	var err error
	switch {
	case s.closed:
		err = ErrClosed
	case len(s.queue) >= maxQueue:
		err = ErrBusy
	default:
		s.queue = append(s.queue, w)
	}
	s.mu.Unlock()
	if err != nil {
		w.done(err)
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run commits what is submitted until ctx is done, then what still waits.
func (s *Store) Run(ctx context.Context) {
	again := time.NewTimer(0) // when kept writes are tried again
	defer again.Stop()
	var kept []Write
	for {
		select {
		case <-s.wake:
			kept = s.commitAll(kept)
		case <-again.C:
			kept = s.commitAll(kept)
		case <-ctx.Done():
			s.commitAll(kept)
			return
		}
		if len(kept) > 0 {
			again.Reset(retryInterval)
		}
	}
}

// commitAll commits what is kept from an earlier attempt and what waits now, in
// groups. It returns the writes to be kept that the disk refuses.
func (s *Store) commitAll(again []Write) (kept []Write) {
	s.mu.Lock()
	waiting := append(again, s.queue...)
	s.queue = nil
	s.mu.Unlock()
	for len(waiting) > 0 {
		n := min(len(waiting), maxGroup)
		kept = append(kept, s.commit(waiting[:n:n])...)
		waiting = waiting[n:]
	}
	return kept
}

// commit carries out writes as one transaction, and returns those that must be
// tried again. If one of them returns an error of its own, each is carried out
// alone, so that it keeps no other from the disk.
func (s *Store) commit(group []Write) (kept []Write) {
	err := s.file.use(true, func(tx *Tx) error {
		for _, w := range group {
			if err := own(w.Do(tx)); err != nil {
				return err
			}
		}
		return nil
	})
	if isOwn(err) && len(group) > 1 {
		for _, w := range group {
			kept = append(kept, s.commit([]Write{w})...)
		}
		return kept
	}
	for _, w := range group {
		w.done(err)
		if err != nil && !isOwn(err) && w.Keep {
			kept = append(kept, w)
		}
	}
	return kept
}

// Close lets another process have the file. What waits is not written: stop Run
// first. If the disk hangs Close returns an error after half a second, and the
// file stays open until the end of the process.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	waiting := s.queue
	s.queue = nil
	s.mu.Unlock()
	for _, w := range waiting {
		w.done(ErrClosed)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.file.close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeTimeout):
		return fmt.Errorf("close %s: the disk has not answered for %v", s.Path(), closeTimeout)
	}
}
