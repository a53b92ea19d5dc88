package keeper

import (
	"context"
	"sync"
	"time"

	"webknock/firewall"
	"webknock/internal/notice"
)

// complete does what a completed sequence is for, behind whatever the client has
// completed before. It is called by the shard of the client and must not wait.
func (d *Daemon) complete(c completion) {
	client := c.letter.Client
	done := make(chan struct{})
	d.mu.Lock()
	d.completions[c.sequence.Name]++
	before := d.waiting[client]
	now := c.letter.Answered == nil && before == nil
	if !now {
		d.waiting[client] = done
	}
	d.mu.Unlock()
	if now {
		d.effect(c)
		return
	}
	d.effects.Go(func() {
		awaitAnswer(c.letter.Answered)
		if before != nil {
			<-before
		}
		d.effect(c)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.waiting[client] == done {
			delete(d.waiting, client)
		}
		close(done)
	})
}

// What a completion brings about takes a processor and the kernel's time. Under
// a cover that answers it waits until the answer is out, and a little longer, or
// else the answers to completions were late. Long answers, as those that stream,
// are not waited for to their end.
const (
	answerPatience = time.Second
	answerMargin   = 5 * time.Millisecond
)

// awaitAnswer returns when an answer is out; nil: there is none.
func awaitAnswer(answered <-chan struct{}) {
	if answered == nil {
		return
	}
	select {
	case <-answered:
	case <-time.After(answerPatience):
	}
	time.Sleep(answerMargin)
}

// effect carries out a completion.
func (d *Daemon) effect(c completion) {
	s, client := c.sequence, c.letter.Client
	log := d.Log.With("sequence", s.Name, "client", client)
	opening := c.opening()
	if opening.User != "" {
		log = log.With("user", opening.User)
	}
	if opening.Client != client {
		log = log.With("address", opening.Client)
	}
	if s.Message != "" {
		log = log.With("message", s.Message)
	}
	log.Info("sequence completed")
	d.notices.Send(notice.Notice{Event: notice.Completion, Time: c.letter.At, Sequence: s.Name, Message: s.Message, Client: client.String(), User: opening.User})
	d.commands.completed(c)
	if len(s.Opens)+len(s.Closes) == 0 {
		return
	}
	d.gate.Submit(opening, func(_ []firewall.Grant, err error) {
		if err != nil {
			log.Error("not let in", "doors", opening.Doors, "closes", s.Closes, "error", err)
		}
	})
}

// event logs what happens to grants and to the guard.
func (d *Daemon) event(e firewall.Event) {
	if e.Kind == firewall.Repaired {
		d.Log.Warn("guard repaired", "reason", e.Reason)
		d.notices.Send(notice.Notice{Event: notice.Repair, Time: e.Time, Reason: e.Reason})
		return
	}
	log := d.Log.With("door", e.Grant.Door, "client", firewall.ClientString(e.Grant.Client), "grant", e.Grant.ID)
	if e.Grant.Sequence != "" {
		log = log.With("sequence", e.Grant.Sequence)
	}
	if e.Grant.User != "" {
		log = log.With("user", e.Grant.User)
	}
	switch e.Kind {
	case firewall.Closed:
		log.Info("grant closed", "reason", e.Reason)
	case firewall.Opened:
		log.Info("grant opened", "expires", e.Grant.Expires)
		d.noticeOfGrant(e)
	case firewall.Extended:
		log.Info("grant extended", "expires", e.Grant.Expires)
	case firewall.Adopted:
		log.Info("grant adopted", "expires", e.Grant.Expires)
	}
	d.commands.event(e)
}

// tell sends notices and runs commands until ctx is done. They come to their
// ends side by side, so that the daemon is gone in time.
func (d *Daemon) tell(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { d.notices.Run(ctx) })
	wg.Go(func() { d.commands.run(ctx) })
	wg.Wait()
}
