// Package closed remembers which grants were closed before their end, so that a
// saved ruleset that somebody loads, or a restart, revives none of them.
package closed

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"webknock/firewall"
	"webknock/internal/store"
)

const (
	bucket     = "closed"
	oldFile    = "closed.json" // of versions before
	oldVersion = 1
	// maxClosed bounds the grants that are remembered; of more none is. They
	// end within 24 hours, the longest that a grant may last.
	maxClosed = 1 << 16
	// patience is how long Settle waits for a disk that does not answer.
	patience = 2 * time.Second
)

// A File is where the grants are kept: a [store.Store].
type File interface {
	TakeOver(name string, do func(tx *store.Tx, content []byte) error) error
	OldPath(name string) string
	View(func(*store.Tx) error) error
	Update(func(*store.Tx) error) error
	Submit(store.Write)
}

// A Journal remembers the grants that were closed. It may be used from several
// goroutines. Close only notes, and the file writes when it can, so that a door
// is closed at once whatever the disk does.
type Journal struct {
	file  File
	log   *slog.Logger
	clock func() time.Duration // since the machine was booted, suspends included
	boot  string               // tells this boot from others

	mu        sync.Mutex
	ends      map[string]time.Duration // of grants, by id, by clock
	unknown   error                    // why it is not known which were closed
	damaged   bool                     // because of the file of the version before
	loaded    bool                     // ends holds what the file held
	first     bool                     // nothing was ever remembered
	marked    bool                     // now it is
	noted     uint64                   // changes so far
	read      uint64                   // of them, that the write under way holds
	tried     uint64                   // of them, that the disk was told of
	attempt   chan struct{}            // closed after the next attempt to write
	submitted bool                     // a write waits or is under way
	began     time.Time                // of an attempt that goes on; zero: none does
	failing   error                    // of the last attempt
	overflow  bool                     // more were closed than there is room for
	end       *time.Timer              // of all grants: then they are forgotten
}

var _ firewall.Closures = (*Journal)(nil)

// Open reads which grants are remembered, and takes over what versions before
// kept in closed.json. What keeps it from that, Known returns.
func Open(file File, log *slog.Logger, clock func() time.Duration, boot string) *Journal {
	j := &Journal{file: file, log: log, clock: clock, boot: boot, attempt: make(chan struct{}), ends: map[string]time.Duration{}}
	j.unknown = file.TakeOver(oldFile, j.takeOver)
	if j.unknown == nil {
		j.unknown = file.View(j.load)
	}
	j.loaded = j.unknown == nil || j.damaged
	j.marked = !j.first
	if !j.loaded {
		j.note() // so that the problem ends when the disk recovers
	}
	return j
}

// takeOver puts the grants in a file of the version before into the store.
func (j *Journal) takeOver(tx *store.Tx, content []byte) error {
	var f struct {
		Version int    `json:"version"`
		Boot    string `json:"boot"`
		// Closed has for each grant when it would have ended, in ms since the boot.
		Closed map[string]int64 `json:"closed"`
	}
	err := json.Unmarshal(content, &f)
	if err == nil && f.Version != oldVersion {
		err = fmt.Errorf("version %d, want %d", f.Version, oldVersion)
	}
	if j.damaged = err != nil; j.damaged {
		return fmt.Errorf("read %s: %w (remove it to begin anew; grants that were closed may run again then)", j.file.OldPath(oldFile), err)
	}
	b, err := tx.Bucket(bucket)
	for id, end := range f.Closed {
		err = errors.Join(err, b.Put([]byte(id), value(time.Duration(end)*time.Millisecond, f.Boot)))
	}
	return err
}

// value returns what stands for a grant: when it would have ended, in ms since
// the boot, in eight bytes, and which boot that is.
func value(end time.Duration, boot string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(end.Milliseconds())), boot...)
}

func (j *Journal) load(tx *store.Tx) error {
	b, err := tx.Bucket(bucket)
	if err != nil {
		return err
	}
	j.first = !tx.Exists(bucket)
	return b.ForEach(func(id, value []byte) error {
		if len(value) < 8 {
			return fmt.Errorf("the record of closed grants is damaged: %q has %x", id, value)
		}
		if string(value[8:]) == j.boot { // a reboot ends grants
			j.ends[string(id)] = time.Duration(binary.BigEndian.Uint64(value)) * time.Millisecond
		}
		return nil
	})
}

// Close implements firewall.Closures.
func (j *Journal) Close(grants []firewall.Grant) {
	if len(grants) == 0 {
		return
	}
	j.mu.Lock()
	now := j.clock()
	if len(j.ends)+len(grants) > maxClosed {
		j.sweep(now)
	}
	for _, g := range grants {
		if len(j.ends) >= maxClosed {
			j.overflow = true
			break
		}
		j.ends[g.ID] = now + time.Until(g.Expires)
	}
	j.mu.Unlock()
	j.note()
}

// note has the file written.
func (j *Journal) note() {
	j.mu.Lock()
	j.noted++
	submitted := j.submitted
	if !submitted {
		j.submitted, j.began = true, time.Now()
	}
	j.mu.Unlock()
	if !submitted {
		j.file.Submit(store.Write{Do: j.put, Done: j.saved, Keep: true})
	}
}

// put writes what is remembered now.
func (j *Journal) put(tx *store.Tx) error {
	b, err := tx.Bucket(bucket)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.began.IsZero() {
		j.began = time.Now()
	}
	if first := j.first; !j.loaded { // late, but before it is overwritten
		j.load(tx) // a damaged record is overwritten
		j.loaded, j.first = true, first
	}
	j.sweep(j.clock())
	j.read = j.noted
	values := map[string][]byte{}
	for id, end := range j.ends {
		values[id] = value(end, j.boot)
	}
	return b.Replace(values)
}

// saved notes how an attempt to write has ended.
func (j *Journal) saved(err error) {
	j.mu.Lock()
	if err != nil && j.failing == nil {
		j.log.Error("closed grants are not remembered; trying until they are", "error", err)
	}
	j.tried, j.failing, j.began = j.noted, err, time.Time{}
	gone := errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrClosed)
	j.submitted = err != nil && !gone // it is tried again
	more := false
	if err == nil {
		j.marked = true
		j.tried = j.read
		more = j.noted > j.read
		if j.damaged {
			j.damaged = os.Rename(j.file.OldPath(oldFile), j.file.OldPath(oldFile)+".corrupt") != nil
		}
		j.forgetLater()
	}
	close(j.attempt)
	j.attempt = make(chan struct{})
	j.mu.Unlock()
	if more {
		j.note()
	}
}

// forgetLater has the file written again when all grants in it have ended. The
// caller holds j.mu.
func (j *Journal) forgetLater() {
	if j.end != nil {
		j.end.Stop()
	}
	var last time.Duration
	for _, end := range j.ends {
		last = max(last, end)
	}
	if last > 0 {
		j.end = time.AfterFunc(max(time.Millisecond, last-j.clock()), j.note)
	}
}

// sweep forgets the grants that have ended. The caller holds j.mu.
func (j *Journal) sweep(now time.Duration) {
	maps.DeleteFunc(j.ends, func(_ string, end time.Duration) bool { return end <= now })
	j.overflow = j.overflow && len(j.ends) > 0
}

// Closed implements firewall.Closures.
func (j *Journal) Closed(id string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, closed := j.ends[id]
	return closed
}

// Known implements firewall.Closures.
func (j *Journal) Known() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.unknown
}

// Upgrade implements firewall.Closures. At the first start of a version that remembers closed
// grants, the bucket does not exist yet, and Upgrade creates it. If that fails, the next start
// could not tell that it is not the first one, so this one does not count as an upgrade.
func (j *Journal) Upgrade() bool {
	j.mu.Lock()
	first, must := j.first, j.first && !j.marked && j.unknown == nil
	j.mu.Unlock()
	if !must {
		return first
	}
	err := j.file.Update(func(tx *store.Tx) error {
		_, err := tx.Bucket(bucket)
		return err
	})
	j.mu.Lock()
	j.failing = err
	j.marked = err == nil
	j.first = j.marked
	j.mu.Unlock()
	if err != nil {
		j.note() // until it can be
	}
	return err == nil
}

// Settle implements firewall.Closures.
func (j *Journal) Settle(ctx context.Context) {
	late := time.NewTimer(patience)
	defer late.Stop()
	j.mu.Lock()
	noted := j.noted
	for j.tried < noted {
		attempt := j.attempt
		j.mu.Unlock()
		select {
		case <-attempt:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
		j.mu.Lock()
	}
	j.mu.Unlock()
}

// Problem returns why closed grants may be revived by a restart; nil: none may.
func (j *Journal) Problem() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	hint := "; a restart behind which somebody loads a saved ruleset revives them"
	switch n := len(j.ends); {
	case j.unknown != nil && j.tried == 0:
		return fmt.Errorf("it is not known which grants were closed before the start: %w", j.unknown)
	case j.failing != nil:
		return fmt.Errorf("closed grants (%d) are not remembered%s: %w", n, hint, j.failing)
	case !j.began.IsZero() && time.Since(j.began) > patience:
		return fmt.Errorf("closed grants (%d) are not remembered%s: the disk has not answered for %v", n, hint, time.Since(j.began).Round(time.Second))
	case j.overflow:
		return fmt.Errorf("some closed grants are not remembered%s: there are more than %d", hint, maxClosed)
	}
	return nil
}
