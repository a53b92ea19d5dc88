package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"webknock/firewall"
	"webknock/internal/atomicfile"
	"webknock/internal/store"
)

// A Journal knows which grants have commands for their end, and starts those:
// each once at most, and at least once unless it is no longer configured.
//
// A bucket of the store says of each such grant whether it has ended, and how
// many of its commands have been started. A start is written down before it is
// made; what cannot be written down is not started, and tried until it can. Run
// writes: changes that come meanwhile are the next write.
type Journal struct {
	file     *store.Store // nil: nothing outlives the process
	runner   *Runner
	log      *slog.Logger
	commands func(sequence string) []Command // for the end of a grant, as configured now
	write    func(records map[string][]byte) error
	wake     chan struct{}

	mu      sync.Mutex
	records map[string]*record // by grant
	due     []*record          // those with commands to be started, in the order of their ends
	loaded  bool               // records hold what the store held
	settled bool               // Settle was called
	dirty   bool               // records are not as the store has them
	failing error              // why the store cannot be written
}

// A record is a grant that has commands for its end.
type record struct {
	Grant    string       `json:"grant"`
	Door     string       `json:"door"`
	Client   netip.Prefix `json:"client"`
	Sequence string       `json:"sequence"` // that opened it
	User     string       `json:"user,omitempty"`
	Expires  time.Time    `json:"expires"`
	Ended    time.Time    `json:"ended,omitzero"`
	Reason   string       `json:"reason,omitempty"`  // why it has ended; empty: it runs
	Started  int          `json:"started,omitempty"` // of its commands, in their order
	Done     bool         `json:"done,omitempty"`    // all have been

	running  bool      // the firewall has said so
	commands []Command // of one that has ended
}

// over reports whether a record can be deleted. It is kept for a moment after the end of its
// grant, because the firewall may still hold the grant then, and a daemon that starts would
// take it for a new one.
func (r *record) over(now time.Time) bool {
	return r.Done && now.Sub(r.Ended) > afterlife
}

const (
	afterlife  = 10 * time.Second
	minRetry   = 250 * time.Millisecond // after a first failure
	maxRetry   = 5 * time.Second        // after many
	bucket     = "commands"             // grant → its record, as JSON
	oldFile    = "commands.json"        // of versions before
	oldVersion = 1
)

// OpenJournal reads the journal in a file, and takes over what versions before
// kept in commands.json. Without a file nothing outlives the process. Commands
// returns what a sequence has for the end of a grant now, in the order of the
// configuration. A file that cannot be read is tried again in Run; but with
// required it is an error if another daemon has it: to this one, its grants would
// seem to have ended.
func OpenJournal(file *store.Store, runner *Runner, commands func(sequence string) []Command, required bool, log *slog.Logger) (*Journal, error) {
	j := &Journal{file: file, runner: runner, log: log, commands: commands, wake: make(chan struct{}, 1), records: map[string]*record{}}
	if file == nil {
		j.loaded = true
		j.write = func(map[string][]byte) error { return nil }
		return j, nil
	}
	j.write = func(records map[string][]byte) error {
		done := make(chan error, 1)
		file.Submit(store.Write{
			Do: func(tx *store.Tx) error {
				b, err := tx.Bucket(bucket)
				return errors.Join(err, b.Replace(records))
			},
			Done: func(err error) { done <- err },
		})
		return <-done
	}
	if err := j.load(); required && errors.Is(err, atomicfile.ErrOwned) {
		return nil, fmt.Errorf("the journal of commands: %w", err)
	}
	return j, nil
}

// load reads the journal, unless that was done.
func (j *Journal) load() error {
	j.mu.Lock()
	loaded := j.loaded
	j.mu.Unlock()
	if loaded {
		return nil
	}
	var damaged error
	err := j.file.TakeOver(oldFile, func(tx *store.Tx, content []byte) error {
		var records map[string][]byte
		if records, damaged = decodeOld(content); damaged != nil {
			return damaged
		}
		b, err := tx.Bucket(bucket)
		for grant, r := range records {
			err = errors.Join(err, b.Put([]byte(grant), r))
		}
		return err
	})
	if damaged != nil {
		path := j.file.OldPath(oldFile)
		aside := path + ".corrupt"
		j.log.Error("the journal of commands cannot be used and is set aside; commands for grants that have ended meanwhile are not run",
			"file", path, "aside", aside, "error", err)
		err = os.Rename(path, aside)
	}
	if err != nil {
		return err
	}
	records := map[string]*record{}
	err = j.file.View(func(tx *store.Tx) error {
		b, err := tx.Bucket(bucket)
		if err != nil {
			return err
		}
		return b.ForEach(func(grant, value []byte) error {
			r := new(record)
			if err := errors.Join(json.Unmarshal(value, r), r.check()); err != nil {
				j.log.Error("a record of a grant cannot be used; its commands are not run", "grant", string(grant), "error", err)
				return nil
			}
			records[r.Grant] = r
			return nil
		})
	})
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.loaded = true
	for grant, r := range records {
		if _, known := j.records[grant]; !known {
			j.records[grant] = r
		}
	}
	j.dirty = j.dirty || len(j.records) > 0
	if j.settled {
		j.settle()
	}
	return nil
}

func (r *record) check() error {
	if r.Grant == "" || r.Sequence == "" || !r.Client.IsValid() || r.Started < 0 {
		return errors.New("a record without a grant, a sequence or a client")
	}
	return nil
}

// decodeOld decodes the file of earlier versions into records for the store.
func decodeOld(content []byte) (map[string][]byte, error) {
	var file struct {
		Version int       `json:"version"`
		Grants  []*record `json:"grants"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, err
	}
	if file.Version != oldVersion {
		return nil, fmt.Errorf("version %d is not known (%d)", file.Version, oldVersion)
	}
	records := map[string]*record{}
	for _, r := range file.Grants {
		if r == nil {
			return nil, errors.New("no record where one should be")
		}
		if err := r.check(); err != nil {
			return nil, err
		}
		records[r.Grant] = r
	}
	return encode(records)
}

func encode(records map[string]*record) (map[string][]byte, error) {
	values := map[string][]byte{}
	for grant, r := range records {
		value, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		values[grant] = value
	}
	return values, nil
}

// Began notes a grant that is new or adopted.
func (j *Journal) Began(g firewall.Grant) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r, known := j.records[g.ID]; known {
		j.runs(r, g)
	} else if len(j.commands(g.Sequence)) > 0 {
		j.records[g.ID] = &record{Grant: g.ID, Door: g.Door, Client: g.Client, Sequence: g.Sequence, User: g.User}
		j.runs(j.records[g.ID], g)
	}
}

// Extended records the new end of a grant.
func (j *Journal) Extended(g firewall.Grant) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r, known := j.records[g.ID]; known {
		j.runs(r, g)
	}
}

// runs notes that the firewall has a grant. The caller holds mu.
func (j *Journal) runs(r *record, g firewall.Grant) {
	if r.Reason != "" {
		return // the firewall is behind
	}
	r.running = true
	if !r.Expires.Equal(g.Expires) {
		r.Expires = g.Expires
		j.changed()
	}
}

// Ended notes the end of a grant. Its commands are those that are configured
// now.
func (j *Journal) Ended(g firewall.Grant, reason string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r := j.records[g.ID]; r != nil && r.Reason == "" {
		r.Expires = g.Expires
		j.end(r, reason)
	}
}

// Settle ends the grants of earlier runs that the firewall no longer holds. It
// is called once, when those that it holds have been noted.
func (j *Journal) Settle() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.settled = true
	if j.loaded {
		j.settle()
	}
}

func (j *Journal) settle() {
	for _, r := range slices.SortedFunc(maps.Values(j.records), func(a, b *record) int { return a.Expires.Compare(b.Expires) }) {
		switch {
		case r.Done:
		case slices.Contains(j.due, r): // it has ended in this run
		case r.Reason != "":
			j.end(r, r.Reason)
		case !r.running:
			j.end(r, firewall.Expired)
		}
	}
}

// end makes the commands of a grant due that have not been started. The caller
// holds mu.
func (j *Journal) end(r *record, reason string) {
	if r.Reason == "" {
		r.Reason, r.Ended = reason, time.Now()
	}
	r.commands = j.commands(r.Sequence)
	if len(r.commands) == 0 {
		j.log.Warn("no commands for the end of a grant: its sequence has none any more", "sequence", r.Sequence, "door", r.Door,
			"client", firewall.ClientString(r.Client), "grant", r.Grant)
	}
	if r.Done = r.Started >= len(r.commands); !r.Done {
		j.due = append(j.due, r)
	}
	j.changed()
}

// changed has the file written. The caller holds mu.
func (j *Journal) changed() {
	j.dirty = true
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Touch has the file written, so that it is known whether it can be.
func (j *Journal) Touch() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.changed()
}

// Problem returns what keeps commands from being started, or nil.
func (j *Journal) Problem() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failing == nil {
		return nil
	}
	return fmt.Errorf("commands for the end of grants wait: their journal cannot be written: %w", j.failing)
}

// Run writes the file and starts commands until ctx is done.
func (j *Journal) Run(ctx context.Context) {
	retry := minRetry
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var turn chan<- struct{}
		wake := j.wake
		if j.Problem() != nil {
			wake = nil // it is tried when the timer says
		} else if j.waiting() > 0 {
			turn = j.runner.slots
		}
		slots := 0
		select {
		case <-ctx.Done():
			j.flush(0)
			return
		case <-wake:
		case <-timer.C:
		case turn <- struct{}{}:
			slots = 1
		}
		for more := j.waiting() - slots; more > 0; more-- {
			select {
			case j.runner.slots <- struct{}{}:
				slots++
				continue
			default:
			}
			break
		}
		j.flush(slots)
		if j.Problem() != nil || !j.isLoaded() {
			timer.Reset(retry)
			retry = min(2*retry, maxRetry)
		} else {
			retry = minRetry
		}
	}
}

func (j *Journal) isLoaded() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.loaded
}

// waiting returns how many commands are due.
func (j *Journal) waiting() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.due {
		n += len(r.commands) - r.Started
	}
	return n
}

// flush writes the file if need be, with the starts of as many commands as there
// are slots, and then starts those. If the file cannot be written nothing is
// started and the slots are given back.
func (j *Journal) flush(slots int) {
	if err := j.load(); err != nil {
		j.mu.Lock()
		if j.dirty { // else there is nothing to wait, as far as is known
			j.failed(err)
		}
		j.mu.Unlock()
		for range slots {
			<-j.runner.slots
		}
		return
	}
	j.mu.Lock()
	if !j.dirty && slots == 0 && j.failing == nil {
		j.mu.Unlock()
		return
	}
	now := time.Now()
	maps.DeleteFunc(j.records, func(_ string, r *record) bool { return r.over(now) })
	var jobs []job
	started := map[*record]int{}
	for _, r := range j.due {
		started[r] = r.Started
		for started[r] < len(r.commands) && len(jobs) < slots {
			jobs = append(jobs, job{r.commands[started[r]], r.occasion()})
			started[r]++
		}
	}
	records := map[string]*record{}
	for grant, r := range j.records {
		after := *r
		if n, ok := started[r]; ok {
			after.Started, after.Done = n, n >= len(r.commands)
		}
		records[grant] = &after
	}
	j.dirty = false
	j.mu.Unlock()

	values, err := encode(records)
	if err == nil {
		err = j.write(values)
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed(err)
	if err != nil {
		j.dirty = true
		jobs = nil
	} else {
		for r, n := range started {
			r.Started, r.Done = n, n >= len(r.commands)
		}
		j.due = slices.DeleteFunc(j.due, func(r *record) bool { return r.Done })
	}
	for _, job := range jobs {
		j.runner.start(job)
	}
	for range slots - len(jobs) {
		<-j.runner.slots
	}
}

func (r *record) occasion() Occasion {
	return Occasion{
		Event: Close, Sequence: r.Sequence, Client: r.Client, User: r.User, Door: r.Door, Grant: r.Grant, Expires: r.Expires, Reason: r.Reason,
	}
}

// failed remembers whether the file could be written at last, and logs when
// that changes. The caller holds mu.
func (j *Journal) failed(err error) {
	switch {
	case err != nil && j.failing == nil:
		j.log.Error("the journal of commands cannot be written; commands for the end of grants wait until it can", "error", err)
	case err == nil && j.failing != nil:
		j.log.Info("the journal of commands can be written again")
	}
	j.failing = err
}
