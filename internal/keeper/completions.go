package keeper

import (
	"errors"
	"slices"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/seam"
)

// Why a completion opens nothing.
var (
	errNotPermitted = errors.New("by the configuration as it is now, its user may not do that")
	errNoSequence   = errors.New("by the configuration as it is now, there is no such sequence")
)

// Complete implements seam.Keeper.
func (k *Keeper) Complete(c seam.Completion) {
	now := time.Now()
	if !k.asked.completions.take(now) {
		k.asked.refuse("a completion", errTooOften)
		return
	}
	c, ok := wellFormed(c, now)
	if !ok {
		k.asked.refuse("a completion", errMalformed)
		return
	}
	done := event.Completion{At: c.At, Sequence: c.Sequence, Client: c.Client, Address: c.Client, User: c.User, Request: c.Request}
	seq := sequenceOf(k.config.Load(), c.Sequence)
	err := mayComplete(seq, c)
	if err == nil && c.User != "" {
		err = k.codes.spend(seq, c.User, c.Code, now)
		if errors.Is(err, errNotBurnt) || errors.Is(err, errSpent) {
			k.asked.refuse("a completion", err)
		}
	}
	if err != nil {
		k.refuse(event.GrantRefused{Completion: done, Err: err})
		return
	}
	opening := openingOf(seq, c)
	done.Message, done.Address = seq.Message, opening.Client
	if len(seq.Run) == 0 { // only commands are told of it, and it may be large
		done.Request = nil
	}
	opening.Cause = &done
	k.mu.Lock()
	k.completions[seq.Name]++
	k.mu.Unlock()
	k.events.Publish(done)
	if len(seq.Opens)+len(seq.Closes) == 0 {
		return
	}
	k.gate.Submit(opening, func(grants []firewall.Grant, err error) {
		if err == nil && len(grants) > 0 {
			k.metrics.Opened(time.Since(c.At))
		}
		if err != nil {
			k.refuse(event.GrantRefused{Completion: done, Doors: opening.Doors, Closes: opening.Closes, Err: err})
		}
	})
}

// UsedCodes implements seam.Keeper.
func (k *Keeper) UsedCodes() (onetime.Used, error) {
	if !k.asked.loads.take(time.Now()) {
		k.asked.refuse("the used codes", errTooOften)
		return onetime.Used{}, errTooOften
	}
	return k.codes.load()
}

// RecordCodes implements seam.Keeper.
func (k *Keeper) RecordCodes(used onetime.Used) error {
	err := k.codes.record(used, time.Now())
	var refused *refusedError
	if errors.As(err, &refused) {
		k.asked.refuse("a record of used codes", err)
	}
	return err
}

func sequenceOf(cfg *config.Config, name string) *config.Sequence {
	i := slices.IndexFunc(cfg.Sequences, func(s config.Sequence) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &cfg.Sequences[i]
}

// openingOf returns what a completion asks of the gate.
func openingOf(s *config.Sequence, c seam.Completion) firewall.OpenRequest {
	r := firewall.OpenRequest{Client: c.Client, Doors: s.Opens, Closes: s.Closes, Sequence: s.Name, User: c.User}
	if c.Ticket != nil {
		r.TTL = c.Ticket.TTL
		if len(c.Ticket.Doors) > 0 {
			r.Doors = c.Ticket.Doors
		}
		if c.Ticket.Address.IsValid() {
			r.Client = c.Ticket.Address
		}
	}
	return r
}
