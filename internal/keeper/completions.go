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
	done := event.Completion{At: c.At, Sequence: c.Sequence, Client: c.Client, Address: c.Client, User: c.User, Request: c.Request}
	seq := sequenceOf(k.config.Load(), c.Sequence)
	if err := mayComplete(seq, c); err != nil {
		k.events.Publish(event.GrantRefused{Completion: done, Err: err})
		return
	}
	opening := openingOf(seq, c)
	done.Message, done.Address = seq.Message, opening.Client
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
			k.events.Publish(event.GrantRefused{Completion: done, Doors: opening.Doors, Closes: opening.Closes, Err: err})
		}
	})
}

// UsedCodes implements seam.Keeper.
func (k *Keeper) UsedCodes() (onetime.Used, error) { return k.used.Load() }

// RecordCodes implements seam.Keeper.
func (k *Keeper) RecordCodes(used onetime.Used) error {
	done := make(chan error, 1)
	k.used.Record(used, func(err error) { done <- err })
	return <-done
}

func sequenceOf(cfg *config.Config, name string) *config.Sequence {
	i := slices.IndexFunc(cfg.Sequences, func(s config.Sequence) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &cfg.Sequences[i]
}

// mayComplete returns why a completion opens nothing, or nil. The configuration may
// be another than when the front looked at the run's codes.
func mayComplete(s *config.Sequence, c seam.Completion) error {
	switch {
	case s == nil:
		return errNoSequence
	case c.User != "" && !(s.Admits(c.User) && c.Ticket.Permitted(s.Opens, s.AllowAddress)):
		return errNotPermitted
	}
	return nil
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
