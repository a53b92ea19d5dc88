// Package closed remembers which grants were closed before their end, so that a
// saved ruleset that somebody loads, or a restart, revives none of them.
package closed

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"webknock/firewall"
	"webknock/internal/atomicfile"
)

const (
	fileName    = "closed.json"
	fileVersion = 1
	maxFile     = 16 << 20 // bytes
	// maxClosed bounds the grants that are remembered; of more none is. They
	// end within 24 hours, the longest that a grant may last.
	maxClosed = 1 << 16

	minRetry = 250 * time.Millisecond // after a first failure
	maxRetry = 5 * time.Second        // after many
	// patience is how long Settle waits for a disk that does not answer.
	patience = 2 * time.Second
)

// A Journal is a file of the grants that were closed. It may be used from several
// goroutines. Close only notes; one goroutine, in Run, writes, so that a door is
// closed at once whatever the disk does.
type Journal struct {
	dir   *atomicfile.Dir
	log   *slog.Logger
	clock func() time.Duration // since the machine was booted, suspends included
	boot  string               // tells this boot from others
	write func([]byte) error
	wake  chan struct{}

	mu       sync.Mutex
	ends     map[string]time.Duration // of grants, by id, by clock
	unknown  error                    // why it is not known which were closed
	first    bool                     // there was no file
	marked   bool                     // there is one now
	noted    uint64                   // changes so far
	tried    uint64                   // of them, that the disk was told of
	attempt  chan struct{}            // closed after the next attempt to write
	began    time.Time                // of an attempt that goes on; zero: none does
	failing  error                    // of the last attempt
	overflow bool                     // more were closed than there is room for
}

var _ firewall.Closures = (*Journal)(nil)

type file struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"`
	// Closed has for each grant when it would have ended, in ms since the boot.
	Closed map[string]int64 `json:"closed"`
}

// Open reads the file in a directory. What keeps it from that, Known returns.
func Open(dir *atomicfile.Dir, log *slog.Logger, clock func() time.Duration, boot string) *Journal {
	j := &Journal{
		dir: dir, log: log, clock: clock, boot: boot,
		wake: make(chan struct{}, 1), attempt: make(chan struct{}), ends: map[string]time.Duration{},
	}
	j.write = func(data []byte) error { return dir.Write(fileName, data) }
	data, err := dir.Read(fileName, maxFile)
	if err != nil {
		j.unknown = err
		return j
	}
	if j.first = data == nil; j.first {
		return j
	}
	j.marked = true
	var f file
	err = json.Unmarshal(data, &f)
	if err == nil && f.Version != fileVersion {
		err = fmt.Errorf("version %d, want %d", f.Version, fileVersion)
	}
	if err != nil {
		j.unknown = fmt.Errorf("read %s: %w (remove it to begin anew; grants that were closed may run again then)", dir.Path(fileName), err)
		return j
	}
	if f.Boot == boot { // a reboot ends grants
		for id, end := range f.Closed {
			j.ends[id] = time.Duration(end) * time.Millisecond
		}
	}
	return j
}

// Close implements firewall.Closures.
func (j *Journal) Close(grants []firewall.Grant) {
	if len(grants) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
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
	j.note()
}

// note has the writer write. The caller holds j.mu.
func (j *Journal) note() {
	j.noted++
	select {
	case j.wake <- struct{}{}:
	default:
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

// Upgrade implements firewall.Closures: where no version that remembers has run
// yet there is no file. One is written at once; if it cannot be, the next start
// could not tell either, and this one counts as no upgrade.
func (j *Journal) Upgrade() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.first && !j.marked && j.unknown == nil {
		j.failing = j.write(j.content())
		j.marked = j.failing == nil
		j.first = j.marked
	}
	return j.first
}

// content returns what is to be in the file. The caller holds j.mu.
func (j *Journal) content() []byte {
	j.sweep(j.clock())
	f := file{Version: fileVersion, Boot: j.boot, Closed: map[string]int64{}}
	for id, end := range j.ends {
		f.Closed[id] = end.Milliseconds()
	}
	data, _ := json.Marshal(f) // of such types it does not fail
	return append(data, '\n')
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

// Run writes what Close notes until ctx is done, and then once more.
func (j *Journal) Run(ctx context.Context) {
	again := time.NewTimer(0) // to try again, or to write that all have ended
	defer again.Stop()
	again.Stop()
	retry := minRetry
	for stopping := false; ; {
		select {
		case <-j.wake:
		case <-again.C:
		case <-ctx.Done():
			stopping = true
		}
		next, err := j.save()
		switch {
		case stopping:
			return
		case err != nil:
			again.Reset(retry)
			retry = min(2*retry, maxRetry)
		default:
			retry = minRetry
			if next > 0 {
				again.Reset(next)
			}
		}
	}
}

// save writes the file, and returns how long it is until nothing in it matters;
// 0: nothing does.
func (j *Journal) save() (next time.Duration, err error) {
	j.mu.Lock()
	had := len(j.ends)
	data, noted := j.content(), j.noted
	if noted == j.tried && had == len(j.ends) && j.failing == nil {
		j.mu.Unlock()
		return j.untilLast(), nil
	}
	j.began = time.Now()
	j.mu.Unlock()
	err = j.write(data)
	j.mu.Lock()
	if err != nil && j.failing == nil {
		j.log.Error("closed grants are not remembered; trying until they are", "error", err)
	}
	j.tried, j.failing, j.began = noted, err, time.Time{}
	j.marked = j.marked || err == nil
	close(j.attempt)
	j.attempt = make(chan struct{})
	j.mu.Unlock()
	return j.untilLast(), err
}

func (j *Journal) untilLast() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	var last time.Duration
	for _, end := range j.ends {
		last = max(last, end)
	}
	if last == 0 {
		return 0
	}
	return max(time.Millisecond, last-j.clock())
}
