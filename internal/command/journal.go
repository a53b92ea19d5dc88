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
	"strings"
	"sync"
	"time"

	"webknock/firewall"
	"webknock/internal/atomicfile"
)

// A Journal knows which grants have commands for their end, and starts those:
// each once at most, and at least once unless it is no longer configured.
//
// It is a file that says of each such grant whether it has ended, and how many
// of its commands have been started. A start is written down before it is made;
// what cannot be written down is not started, and tried until it can. One
// goroutine, in Run, writes: changes that come meanwhile are the next write.
type Journal struct {
	dir      *atomicfile.Dir // nil: nothing outlives the process
	runner   *Runner
	log      *slog.Logger
	commands func(sequence string) []Command // for the end of a grant, as configured now
	write    func(data []byte) error
	wake     chan struct{}

	mu      sync.Mutex
	records map[string]*record // by grant
	due     []*record          // those with commands to be started, in the order of their ends
	dirty   bool               // records are not as the file has them
	failing error              // why the file cannot be written
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

// over reports whether a record has served its purpose. It is kept for a
// little: the firewall may still hold the grant for a moment after its end, so
// that a daemon that starts then would take it for another.
func (r *record) over(now time.Time) bool {
	return r.Done && now.Sub(r.Ended) > afterlife
}

const (
	afterlife      = 10 * time.Second
	minRetry       = 250 * time.Millisecond // after a first failure
	maxRetry       = 5 * time.Second        // after many
	maxJournal     = 256 << 20              // bytes
	journalName    = "commands.json"
	journalVersion = 1
)

type journalFile struct {
	Version int       `json:"version"`
	Grants  []*record `json:"grants"`
}

// OpenJournal reads the journal in a directory; one that cannot be read is set
// aside. If there is no directory nothing outlives the process. Commands returns
// what a sequence has for the end of a grant now, in the order of the
// configuration. It is an error if another daemon has the journal: to this one,
// its grants would seem to have ended.
func OpenJournal(dir *atomicfile.Dir, runner *Runner, commands func(sequence string) []Command, log *slog.Logger) (*Journal, error) {
	j := &Journal{dir: dir, runner: runner, log: log, commands: commands, wake: make(chan struct{}, 1), records: map[string]*record{}}
	if dir == nil {
		j.write = func([]byte) error { return nil }
		return j, nil
	}
	j.write = func(data []byte) error { return dir.Write(journalName, data) }
	path := dir.Path(journalName)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return j, nil // it is made, and the directory owned, when there is something to write
	}
	if err := dir.Own(); errors.Is(err, atomicfile.ErrOwned) {
		return nil, fmt.Errorf("the journal of commands: %w", err) // any other will be met again when the file is written
	}
	if err := j.load(); err != nil {
		aside := path + ".corrupt"
		log.Error("the journal of commands cannot be used and is set aside; commands for grants that have ended meanwhile are not run",
			"file", path, "aside", aside, "error", err)
		if err := os.Rename(path, aside); err != nil {
			log.Error("the journal of commands cannot be set aside", "error", err)
		}
		clear(j.records)
	}
	return j, nil
}

func (j *Journal) load() error {
	data, err := j.dir.Read(journalName, maxJournal)
	if err != nil || data == nil {
		return err
	}
	var file journalFile
	if err := json.Unmarshal(data, &file); err != nil {
		return err
	}
	if file.Version != journalVersion {
		return fmt.Errorf("version %d is not known (%d)", file.Version, journalVersion)
	}
	for _, r := range file.Grants {
		if r == nil || r.Grant == "" || r.Sequence == "" || !r.Client.IsValid() || r.Started < 0 {
			return errors.New("a record without a grant, a sequence or a client")
		}
		j.records[r.Grant] = r
	}
	j.dirty = len(j.records) > 0
	return nil
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

// Extended notes until when a grant runs now, whoever has extended it.
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
	for _, r := range slices.SortedFunc(maps.Values(j.records), func(a, b *record) int { return a.Expires.Compare(b.Expires) }) {
		switch {
		case r.Done:
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
	return fmt.Errorf("commands for the end of grants wait: the journal %s cannot be written: %w", j.dir.Path(journalName), j.failing)
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
		if j.Problem() != nil {
			timer.Reset(retry)
			retry = min(2*retry, maxRetry)
		} else {
			retry = minRetry
		}
	}
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
	j.mu.Lock()
	if !j.dirty && slots == 0 {
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
	file := journalFile{Version: journalVersion, Grants: make([]*record, 0, len(j.records))}
	for _, r := range j.records {
		after := *r
		if n, ok := started[r]; ok {
			after.Started, after.Done = n, n >= len(r.commands)
		}
		file.Grants = append(file.Grants, &after)
	}
	j.dirty = false
	j.mu.Unlock()

	slices.SortFunc(file.Grants, func(a, b *record) int { return strings.Compare(a.Grant, b.Grant) })
	data, err := json.Marshal(file)
	if err == nil {
		err = j.write(data)
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
