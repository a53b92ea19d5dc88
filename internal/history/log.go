package history

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"webknock/firewall"
	"webknock/internal/store"
)

const (
	groupDelay    = time.Second     // from the first entry that waits to the transaction
	retryInterval = 5 * time.Second // between two attempts while the disk refuses
	sweepInterval = time.Hour       // between two looks for entries that are too old
	patience      = 2 * time.Second // how long the disk may take before that is a problem
	maxWaiting    = 4096            // changes that wait while the disk refuses; beyond that the oldest are lost
	maxGroup      = 1024            // changes in one transaction
)

// A File is where the entries are kept: a [store.Store].
type File interface {
	View(func(*store.Tx) error) error
	Update(func(*store.Tx) error) error
}

// Limits say what is kept. The oldest entries are removed first.
type Limits struct {
	Keep time.Duration // how long; 0: nothing is recorded, and what there is is removed
	Max  int           // how many
}

// Boot identifies a boot of the machine.
type Boot struct {
	ID string
	At time.Time
}

// A Log writes the history. What it is told of waits in memory for a second at most
// and is then written with all else that waits, as one transaction of its own: a
// failure of the history makes no other write fail. If the disk refuses it tries
// again. Its methods do not wait for the disk, except Flush.
type Log struct {
	file  File
	log   *slog.Logger
	boot  Boot
	wake  chan struct{}
	flush chan chan error

	mu       sync.Mutex
	limits   Limits
	waiting  []change
	lost     uint64 // changes since the last transaction that did not fit into waiting
	lostEver uint64
	running  map[string]firewall.Grant // by id
	settle   settling
	failing  error     // of the last attempt
	began    time.Time // of a transaction that is under way; zero: none is
}

// A change is one part of a transaction. It may be carried out more than once, and
// only the last time counts.
type change func(*transaction) error

// settling says whether the grants in the store must be compared with those that run,
// and why they may differ.
type settling int

const (
	settled     settling = iota
	afterGap             // events were missed
	afterAStart          // the daemon did not run
)

// NewLog returns a log that does nothing before Run.
func NewLog(file File, limits Limits, boot Boot, log *slog.Logger) *Log {
	return &Log{
		file: file, log: log, boot: boot, limits: limits, running: map[string]firewall.Grant{},
		wake: make(chan struct{}, 1), flush: make(chan chan error),
	}
}

// Add records an entry that is of no grant.
func (l *Log) Add(e Entry) { l.submit(func(t *transaction) error { return t.add(e) }) }

// Opened records that a grant was opened.
func (l *Log) Opened(g firewall.Grant, at time.Time) {
	l.runs(g)
	l.submit(func(t *transaction) error { return t.runs(g, at) })
}

// Extended records that a grant lasts longer, or belongs to another user now.
func (l *Log) Extended(g firewall.Grant, at time.Time) {
	l.runs(g)
	l.submit(func(t *transaction) error { return t.runs(g, at) })
}

// Adopted notes a grant of an earlier run, which has most likely recorded it.
func (l *Log) Adopted(g firewall.Grant) {
	l.runs(g)
	l.submit(func(t *transaction) error { return t.runs(g, g.Opened) })
}

// Closed records that a grant has ended.
func (l *Log) Closed(g firewall.Grant, reason string, at time.Time) {
	l.mu.Lock()
	delete(l.running, g.ID)
	l.mu.Unlock()
	l.submit(func(t *transaction) error { return t.closed(g, reason, at) })
}

// Started says that all grants of earlier runs that go on have been adopted. Those in
// the history that have not been have ended meanwhile.
func (l *Log) Started() { l.compare(afterAStart) }

// Missed records that n events were missed. Running are the grants after that.
func (l *Log) Missed(n uint64, running []firewall.Grant) {
	l.mu.Lock()
	l.running = map[string]firewall.Grant{}
	for _, g := range running {
		l.running[g.ID] = g
	}
	l.mu.Unlock()
	l.Add(Entry{Time: time.Now(), Event: Lost, Reason: fmt.Sprintf("%d events were missed: more came than could be handled", n)})
	l.compare(afterGap)
}

// Running returns a grant that runs.
func (l *Log) Running(id string) (firewall.Grant, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g, ok := l.running[id]
	return g, ok
}

// Use sets other limits.
func (l *Log) Use(limits Limits) {
	l.mu.Lock()
	before := l.limits
	l.limits = limits
	l.mu.Unlock()
	if before.Keep == 0 && limits.Keep > 0 {
		l.compare(afterGap)
	} else if before != limits {
		l.signal()
	}
}

// Lost returns how many entries were lost since the start.
func (l *Log) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lostEver
}

// Problem returns why the history is not written; nil: it is.
func (l *Log) Problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := fmt.Sprintf("the history is not written (%d entries wait, %d are lost)", len(l.waiting), l.lost)
	switch {
	case l.failing != nil:
		return fmt.Errorf("%s: %w", state, l.failing)
	case !l.began.IsZero() && time.Since(l.began) > patience:
		return fmt.Errorf("%s: the disk has not answered for %v", state, time.Since(l.began).Round(time.Second))
	}
	return nil
}

func (l *Log) runs(g firewall.Grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[g.ID] = g
}

func (l *Log) compare(why settling) {
	l.mu.Lock()
	l.settle = max(l.settle, why)
	l.mu.Unlock()
	l.signal()
}

func (l *Log) submit(c change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limits.Keep == 0 {
		return
	}
	l.waiting = append(l.waiting, c)
	l.bound()
	l.signal()
}

// bound drops the oldest changes that wait if there are too many. The caller holds
// l.mu.
func (l *Log) bound() {
	if n := len(l.waiting) - maxWaiting; n > 0 {
		l.waiting = slices.Delete(l.waiting, 0, n)
		l.lost += uint64(n)
		l.lostEver += uint64(n)
		l.settle = max(l.settle, afterGap)
	}
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run writes what waits until ctx is done, and then what still waits.
func (l *Log) Run(ctx context.Context) {
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	var due <-chan time.Time // when what waits is written; nil: nothing waits
	l.signal()               // limits may be others than those of the run before
	for {
		select {
		case <-l.wake:
			if due == nil {
				due = time.After(groupDelay)
			}
		case <-due:
			due = l.next(l.write())
		case written := <-l.flush:
			err := l.write()
			due = l.next(err)
			written <- err
		case <-sweep.C:
			l.signal()
		case <-ctx.Done():
			if err := l.write(); err != nil {
				l.log.Error("the latest entries of the history are lost", "count", l.waits(), "error", err)
			}
			return
		}
	}
}

// next returns when to write after an attempt.
func (l *Log) next(err error) <-chan time.Time {
	if err == nil {
		return nil
	}
	return time.After(retryInterval)
}

func (l *Log) waits() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

// Flush writes what waits now, and returns when that is done, has failed, or ctx is
// done.
func (l *Log) Flush(ctx context.Context) error {
	written := make(chan error, 1)
	select {
	case l.flush <- written:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write writes all that waits, and removes what is too old or too much.
func (l *Log) write() error {
	for {
		more, err := l.writeGroup()
		if err != nil || !more {
			return err
		}
	}
}

// writeGroup writes a part of what waits as one transaction, and reports whether there
// is more.
func (l *Log) writeGroup() (more bool, err error) {
	l.mu.Lock()
	limits, lost, settle := l.limits, l.lost, l.settle
	n := min(len(l.waiting), maxGroup)
	group := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	var running map[string]firewall.Grant
	if len(l.waiting) > 0 { // running is ahead of the group
		more, settle = true, settled
	} else if settle != settled {
		running, l.settle = maps.Clone(l.running), settled
	}
	l.began = time.Now()
	l.mu.Unlock()

	now := time.Now()
	excess := false
	do := func(tx *store.Tx) error {
		t, err := begin(tx, now)
		if err != nil {
			return err
		}
		excess, err = t.carryOut(group, lost, settle, running, l.boot, limits)
		return err
	}
	if n == 0 && lost == 0 && settle == settled { // perhaps there is nothing to remove: that costs no write
		err = l.file.View(func(tx *store.Tx) error {
			t, err := begin(tx, now)
			excess = err == nil && t.excess(limits) > 0
			return err
		})
		if err == nil && excess {
			err = l.file.Update(do)
		}
	} else {
		err = l.file.Update(do)
	}
	l.wrote(group, lost, settle, err)
	return err == nil && (more || excess), err
}

// wrote notes how a transaction has ended.
func (l *Log) wrote(group []change, lost uint64, settle settling, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began = time.Time{}
	switch {
	case err != nil && l.failing == nil:
		l.log.Error("the history is not written; trying until it is", "error", err)
	case err == nil && l.failing != nil:
		l.log.Info("the history is written again", "lost", lost)
	}
	l.failing = err
	if err != nil {
		l.waiting = append(group, l.waiting...)
		l.settle = max(l.settle, settle)
		l.bound()
		return
	}
	l.lost -= lost
}
