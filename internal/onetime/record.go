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
	retry   = time.Second      // after uses could not be recorded
	maxWait = 10 * time.Second // for the store; completions that wait longer are refused
)

// A Store is where the replay log outlives the process. Its arguments are plain
// values, because the store may be in another process one day. The tests of
// package onetimetest are its contract.
type Store interface {
	// Load returns all recorded uses. It fails if another process has opened the
	// record.
	Load() (Used, error)
	// Record adds uses to the record, all or none of them, and returns at once. It
	// calls done once, from any goroutine: with nil when no crash can lose the uses
	// any more. The caller must not change used afterwards.
	Record(used Used, done func(error))
}

// ErrForgotten is the outcome of Record when the store no longer holds what was
// recorded before: somebody has replaced its file. Nothing was recorded; the
// verifier has all that it remembers recorded again.
var ErrForgotten = errors.New("the record of what was used was replaced")

// load loads the record, unless it is loaded already.
func (v *Verifier) load() {
	v.loading.Lock()
	defer v.loading.Unlock()
	v.mu.Lock()
	done := v.loaded || len(v.users) == 0
	v.mu.Unlock()
	if done {
		return
	}
	used, err := v.store.Load()
	if err != nil {
		v.setProblem(err)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.used.Add(used)
	v.loaded, v.whole = true, true // record once, to find out whether that is possible
	v.wakeWriter()
}

// useCounter notes a TOTP counter as used. The caller holds v.mu.
func (v *Verifier) useCounter(id ticket.KeyID, counter int64) {
	v.used.Of(id).Counter = counter
	if !v.whole {
		v.unrecorded.Of(id).Counter = counter
	}
}

// useTicket notes a ticket as used. The caller holds v.mu.
func (v *Verifier) useTicket(id ticket.KeyID, n ticket.Nonce, at int64) {
	v.used.Of(id).Tickets[n] = at
	if !v.whole {
		v.unrecorded.Of(id).Tickets[n] = at
	}
}

// recordSoon has the noted uses recorded. The caller holds v.mu.
func (v *Verifier) recordSoon() {
	v.uses++
	v.unrecorded.advance(v.used.Mark)
	v.wakeWriter()
}

func (v *Verifier) wakeWriter() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// waiter is a completion that waits for its uses to be recorded.
type waiter struct {
	credential *sequence.Credential
	since      time.Time
	done       func(error)
}

// Await calls done when the uses up to the credential's are recorded, or with an
// error if that fails. It calls done at once or from the store's goroutine; done
// must not block.
func (v *Verifier) Await(p *sequence.Credential, done func(error)) {
	v.mu.Lock()
	if p.Use > v.recorded {
		v.waiting = append(v.waiting, waiter{p, time.Now(), done})
		v.wakeWriter()
		v.mu.Unlock()
		return
	}
	err := v.valid(p)
	v.mu.Unlock()
	done(err)
}

// valid returns an error if the user of a credential is no longer configured.
func (v *Verifier) valid(p *sequence.Credential) error {
	if u := v.keys[p.KeyID]; u == nil || u.name != p.User {
		return errGone
	}
	return nil
}

// Run records uses until ctx is done. Then it records the remaining ones and returns when the
// store has answered.
func (v *Verifier) Run(ctx context.Context) {
	again := time.NewTicker(retry)
	defer again.Stop()
	for stopping := ctx.Done(); ; {
		select {
		case <-v.wake:
		case <-again.C:
			if v.Problem() == nil {
				continue
			}
		case <-stopping:
			stopping = nil
		}
		if stopping != nil {
			v.flush()
		} else if !v.flush() {
			return
		}
	}
}

// flush has the store record the uses that it does not have. Only one call of Record
// is under way at a time; uses that come meanwhile go with the next. It reports
// whether one is under way.
func (v *Verifier) flush() bool {
	v.load()
	b := v.begin()
	if b.used != nil {
		v.store.Record(*b.used, func(err error) {
			b.err = err
			v.end(b)
		})
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return !v.sent.IsZero()
}

// A batch is what one call of Record records.
type batch struct {
	used  *Used // nil: there is nothing to record
	whole bool  // used is all that there is
	uses  uint64
	err   error
}

func (v *Verifier) begin() (b batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.loaded || !v.sent.IsZero() || !v.whole && v.uses == v.recorded {
		return batch{}
	}
	b = batch{whole: v.whole, uses: v.uses}
	used := v.unrecorded
	if v.whole {
		used = v.used.clone()
	}
	used.Mark = v.used.Mark
	b.used = &used
	v.unrecorded, v.whole = NewUsed(), false
	v.sent = time.Now()
	return b
}

func (v *Verifier) end(b batch) {
	replaced := errors.Is(b.err, ErrForgotten) && !b.whole
	if !replaced {
		v.setProblem(b.err)
	}
	v.mu.Lock()
	v.sent = time.Time{}
	var answered, waiting []waiter
	for _, w := range v.waiting {
		if w.credential.Use <= b.uses && !replaced {
			answered = append(answered, w)
		} else {
			waiting = append(waiting, w)
		}
	}
	v.waiting = waiting
	if b.err != nil {
		v.unrecorded, v.whole = NewUsed(), true
	} else {
		v.recorded = b.uses
	}
	errs := make([]error, len(answered))
	for i, w := range answered {
		switch {
		case b.err != nil:
			errs[i] = b.err
		case time.Since(w.since) > maxWait:
			errs[i] = errSlow
		default:
			errs[i] = v.valid(w.credential)
		}
	}
	v.wakeWriter() // for what came meanwhile, and for Run to return
	v.mu.Unlock()
	for i, w := range answered {
		w.done(errs[i])
	}
}

// Problem returns why one-time codes open nothing, or nil if they do.
func (v *Verifier) Problem() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case len(v.users) == 0:
		return nil
	case !v.sent.IsZero() && time.Since(v.sent) > maxWait:
		return errSlow
	}
	return v.problem
}

// errSlow reports a disk that hangs.
var errSlow = fmt.Errorf("one-time codes and tickets open nothing: it takes the disk of the state directory more than %v to record their use", maxWait)

// setProblem sets the problem, and logs it if it has changed.
func (v *Verifier) setProblem(err error) {
	if err != nil {
		err = fmt.Errorf("one-time codes and tickets open nothing, as their use cannot be recorded: %w", err)
	}
	v.mu.Lock()
	old := v.problem
	v.problem = err
	v.mu.Unlock()
	switch {
	case err != nil && (old == nil || old.Error() != err.Error()):
		v.log.Error(err.Error())
	case err == nil && old != nil:
		v.log.Info("the use of one-time codes and tickets is recorded again")
	}
}
