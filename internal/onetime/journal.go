package onetime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"webknock/internal/ticket"
	"webknock/sequence"
)

const (
	fileName    = "onetime.json"
	fileVersion = 1
	maxFile     = 64 << 20         // bytes
	retry       = time.Second      // after a write that has failed
	maxWait     = 10 * time.Second // for the disk; what waits longer is refused
)

// burnt is what was used, as the file has it. It is complete in this sense:
// what it does not hold, and is not refused for its time, was never used. A
// ticket is forgotten only when the mark, which stands in the same file, has
// gone past it.
type burnt struct {
	Mark    int64                   `json:"mark"` // the latest time at which a ticket was accepted, in seconds since 1970
	Secrets map[ticket.KeyID]*spent `json:"secrets"`
}

// spent is what was used of one secret, configured or not: a user that is
// removed and comes back finds it.
type spent struct {
	Counter int64                  `json:"counter"` // the latest of TOTP; 0: none
	Tickets map[ticket.Nonce]int64 `json:"tickets"` // the time of each
}

// of returns what was used of a secret, to be added to.
func (b *burnt) of(id ticket.KeyID) *spent {
	s := b.Secrets[id]
	if s == nil {
		s = &spent{Tickets: map[ticket.Nonce]int64{}}
		b.Secrets[id] = s
	}
	return s
}

func (b *burnt) counter(id ticket.KeyID) int64 {
	if s := b.Secrets[id]; s != nil {
		return s.Counter
	}
	return 0
}

func (b *burnt) has(id ticket.KeyID, n ticket.Nonce) bool {
	if s := b.Secrets[id]; s != nil {
		_, has := s.Tickets[n]
		return has
	}
	return false
}

func (b *burnt) full(id ticket.KeyID) bool {
	return b.Secrets[id] != nil && len(b.Secrets[id].Tickets) >= maxTickets
}

// add adds what another knows to be used.
func (b *burnt) add(o burnt) {
	for id, s := range o.Secrets {
		to := b.of(id)
		to.Counter = max(to.Counter, s.Counter)
		maps.Copy(to.Tickets, s.Tickets)
	}
	b.advance(o.Mark)
}

// forgotten returns the time before which tickets may have been forgotten.
func (b *burnt) forgotten() int64 { return b.Mark - validity }

// advance moves the mark, and forgets tickets that it makes too old.
func (b *burnt) advance(now int64) {
	if now <= b.Mark {
		return
	}
	b.Mark = now
	for id, s := range b.Secrets {
		for n, at := range s.Tickets {
			if at < b.forgotten() {
				delete(s.Tickets, n)
			}
		}
		if s.Counter == 0 && len(s.Tickets) == 0 {
			delete(b.Secrets, id)
		}
	}
}

// path returns where the file is.
func (l *Verifier) path() string { return l.dir.Path(fileName) }

// file is the file's form.
type file struct {
	Version int `json:"version"`
	burnt
}

func (b burnt) encode() []byte {
	data, err := json.Marshal(file{fileVersion, b})
	if err != nil {
		panic(err) // no value of the type does that
	}
	return append(data, '\n')
}

// decodeBurnt reads what encode writes; nil is what was never written.
func decodeBurnt(data []byte) (burnt, error) {
	if data == nil {
		return burnt{Secrets: map[ticket.KeyID]*spent{}}, nil
	}
	var f file
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return burnt{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return burnt{}, errors.New("something follows behind its end")
	}
	if f.Version != fileVersion || f.Secrets == nil || f.Mark < 0 {
		return burnt{}, fmt.Errorf("not a file of version %d", fileVersion)
	}
	for id, s := range f.Secrets {
		if s == nil || s.Tickets == nil || s.Counter < 0 {
			return burnt{}, fmt.Errorf("secret %x has no counter or no tickets", id)
		}
	}
	return f.burnt, nil
}

// load reads the file, unless that was done.
func (l *Verifier) load() {
	l.loading.Lock()
	defer l.loading.Unlock()
	l.mu.Lock()
	done := l.loaded || len(l.users) == 0
	l.mu.Unlock()
	if done {
		return
	}
	data, err := l.dir.Read(fileName, maxFile)
	var b burnt
	if err == nil {
		if b, err = decodeBurnt(data); err != nil {
			err = fmt.Errorf("%s is damaged: %w (put a copy back; or move it away, wait two minutes, and all that was used before counts as unused, except for its time)", l.path(), err)
		}
	}
	if err != nil {
		l.setProblem(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.burnt.add(b)
	l.loaded, l.dirty = true, true // written once at once, to know whether it can be
	l.rouse()
}

// waiter is what waits for burns to be on the disk.
type waiter struct {
	pass  *sequence.Credential
	since time.Time
	done  func(error)
}

// Await calls done once all burns up to the pass's are on the disk, or with an
// error if they cannot be written, at once or from the writer's goroutine; it
// must not block.
func (l *Verifier) Await(p *sequence.Credential, done func(error)) {
	l.mu.Lock()
	if p.Use > l.written {
		l.waiting = append(l.waiting, waiter{p, time.Now(), done})
		l.rouse()
		l.mu.Unlock()
		return
	}
	err := l.valid(p)
	l.mu.Unlock()
	done(err)
}

// valid returns an error if the user of a pass is none any more.
func (l *Verifier) valid(p *sequence.Credential) error {
	if u := l.keys[p.KeyID]; u == nil || u.name != p.User {
		return errGone
	}
	return nil
}

// Run writes what is burnt until ctx is done, and then a last time.
func (l *Verifier) Run(ctx context.Context) {
	again := time.NewTicker(retry)
	defer again.Stop()
	for {
		select {
		case <-l.wake:
		case <-again.C:
			if l.Problem() == nil {
				continue
			}
		case <-ctx.Done():
			l.write()
			return
		}
		l.write()
	}
}

// Problem returns why one-time codes open nothing; nil: they do.
func (l *Verifier) Problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.users) == 0:
		return nil
	case !l.writing.IsZero() && time.Since(l.writing) > maxWait:
		return l.slow()
	}
	return l.problem
}

// slow is the error of a disk that hangs.
func (l *Verifier) slow() error {
	return fmt.Errorf("one-time codes and tickets open nothing: it takes the disk of %s more than %v", l.path(), maxWait)
}

// setProblem logs changes of the problem.
func (l *Verifier) setProblem(err error) {
	if err != nil {
		err = fmt.Errorf("one-time codes and tickets open nothing, as their use cannot be recorded: %w", err)
	}
	l.mu.Lock()
	old := l.problem
	l.problem = err
	l.mu.Unlock()
	switch {
	case err != nil && (old == nil || old.Error() != err.Error()):
		l.log.Error(err.Error())
	case err == nil && old != nil:
		l.log.Info("the use of one-time codes and tickets is recorded again", "file", l.path())
	}
}

// write makes all burns so far durable, in one write, and tells who waits.
func (l *Verifier) write() {
	l.load()
	b := l.begin()
	if b.data != nil {
		b.err = l.dir.Write(fileName, b.data)
	}
	l.end(b)
}

// A batch is what one write does.
type batch struct {
	data    []byte // nil: there is nothing to write
	burns   uint64
	waiting []waiter
	err     error
}

func (l *Verifier) begin() (b batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b = batch{burns: l.burns, waiting: l.waiting, err: l.problem}
	l.waiting = nil
	if l.loaded && (l.dirty || l.burns > l.written || l.problem != nil) {
		b.data = l.burnt.encode()
		l.dirty = false
		l.writing = time.Now()
	}
	return b
}

func (l *Verifier) end(b batch) {
	if b.data != nil {
		l.setProblem(b.err)
	}
	l.mu.Lock()
	l.writing = time.Time{}
	if b.data != nil && b.err == nil {
		l.written = b.burns
	} else if b.err != nil {
		l.dirty = true
	}
	errs := make([]error, len(b.waiting))
	for i, w := range b.waiting {
		switch {
		case b.err != nil:
			errs[i] = b.err
		case time.Since(w.since) > maxWait:
			errs[i] = l.slow()
		default:
			errs[i] = l.valid(w.pass)
		}
	}
	l.mu.Unlock()
	for i, w := range b.waiting {
		w.done(errs[i])
	}
}
