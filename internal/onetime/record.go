package onetime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"webknock/internal/ticket"
	"webknock/sequence"
)

const (
	retry   = time.Second      // after a use that could not be recorded
	maxWait = 10 * time.Second // for the store; what waits longer is refused
)

// A Store keeps what was used, so that it outlives the process. Arguments are
// values alone, since it may be in another process one day. The tests of
// onetimetest are its contract.
type Store interface {
	// Load returns all that is recorded. It fails if another process has the
	// record.
	Load() (Used, error)
	// Burn adds uses to the record, all or none of them, and then calls done once,
	// from whatever goroutine: with nil when no crash can lose them. It does not
	// wait. Used belongs to the store from then on.
	Burn(used Used, done func(error))
}

// ErrForgotten is the outcome of a Burn whose store no longer holds what was
// recorded before: somebody has replaced its file. Nothing was burnt; the
// verifier burns all that it remembers again.
var ErrForgotten = errors.New("the record of what was used was replaced")

// load reads the record, unless that was done.
func (l *Verifier) load() {
	l.loading.Lock()
	defer l.loading.Unlock()
	l.mu.Lock()
	done := l.loaded || len(l.users) == 0
	l.mu.Unlock()
	if done {
		return
	}
	used, err := l.store.Load()
	if err != nil {
		l.setProblem(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.burnt.Add(used)
	l.loaded, l.whole = true, true // recorded once at once, to know whether it can be
	l.rouse()
}

// useCounter notes a TOTP counter as used. The caller holds l.mu.
func (l *Verifier) useCounter(id ticket.KeyID, counter int64) {
	l.burnt.Of(id).Counter = counter
	if !l.whole {
		l.fresh.Of(id).Counter = counter
	}
}

// useTicket notes a ticket as used. The caller holds l.mu.
func (l *Verifier) useTicket(id ticket.KeyID, n ticket.Nonce, at int64) {
	l.burnt.Of(id).Tickets[n] = at
	if !l.whole {
		l.fresh.Of(id).Tickets[n] = at
	}
}

// burned has what was noted recorded. The caller holds l.mu.
func (l *Verifier) burned() {
	l.burns++
	l.fresh.advance(l.burnt.Mark)
	l.rouse()
}

func (l *Verifier) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// waiter is what waits for burns to be recorded.
type waiter struct {
	pass  *sequence.Credential
	since time.Time
	done  func(error)
}

// Await calls done once all burns up to the pass's are recorded, or with an error
// if they cannot be, at once or from the store's goroutine; it must not block.
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

// Run has what is burnt recorded until ctx is done, and then what is left; it
// returns when the store has answered.
func (l *Verifier) Run(ctx context.Context) {
	again := time.NewTicker(retry)
	defer again.Stop()
	for stopping := ctx.Done(); ; {
		select {
		case <-l.wake:
		case <-again.C:
			if l.Problem() == nil {
				continue
			}
		case <-stopping:
			stopping = nil
		}
		if stopping != nil {
			l.flush()
		} else if !l.flush() {
			return
		}
	}
}

// flush has the store record what it was not told. One call of Burn is under way
// at a time, so that what comes meanwhile is the next. It reports whether one is.
func (l *Verifier) flush() bool {
	l.load()
	b := l.begin()
	if b.used != nil {
		l.store.Burn(*b.used, func(err error) {
			b.err = err
			l.end(b)
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.sent.IsZero()
}

// A batch is what one call of Burn records.
type batch struct {
	used  *Used // nil: there is nothing to record
	whole bool  // used is all that there is
	burns uint64
	err   error
}

func (l *Verifier) begin() (b batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded || !l.sent.IsZero() || !l.whole && l.burns == l.written {
		return batch{}
	}
	b = batch{whole: l.whole, burns: l.burns}
	used := l.fresh
	if l.whole {
		used = l.burnt.clone()
	}
	used.Mark = l.burnt.Mark
	b.used = &used
	l.fresh, l.whole = NewUsed(), false
	l.sent = time.Now()
	return b
}

func (l *Verifier) end(b batch) {
	replaced := errors.Is(b.err, ErrForgotten) && !b.whole
	if !replaced {
		l.setProblem(b.err)
	}
	l.mu.Lock()
	l.sent = time.Time{}
	var answered, waiting []waiter
	for _, w := range l.waiting {
		if w.pass.Use <= b.burns && !replaced {
			answered = append(answered, w)
		} else {
			waiting = append(waiting, w)
		}
	}
	l.waiting = waiting
	if b.err != nil {
		l.fresh, l.whole = NewUsed(), true
	} else {
		l.written = b.burns
	}
	errs := make([]error, len(answered))
	for i, w := range answered {
		switch {
		case b.err != nil:
			errs[i] = b.err
		case time.Since(w.since) > maxWait:
			errs[i] = errSlow
		default:
			errs[i] = l.valid(w.pass)
		}
	}
	l.rouse() // for what came meanwhile, and for Run to return
	l.mu.Unlock()
	for i, w := range answered {
		w.done(errs[i])
	}
}

// Problem returns why one-time codes open nothing; nil: they do.
func (l *Verifier) Problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.users) == 0:
		return nil
	case !l.sent.IsZero() && time.Since(l.sent) > maxWait:
		return errSlow
	}
	return l.problem
}

// errSlow is the error of a disk that hangs.
var errSlow = fmt.Errorf("one-time codes and tickets open nothing: it takes the disk of the state directory more than %v to record their use", maxWait)

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
		l.log.Info("the use of one-time codes and tickets is recorded again")
	}
}
