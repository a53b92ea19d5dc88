package daemon

import (
	"context"
	"net/netip"
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
	answerMargin   = 10 * time.Millisecond
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
	log := d.Log.With("door", e.Grant.Door, "client", clientString(e.Grant.Client), "grant", e.Grant.ID)
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

// clientString writes the client of a grant: an address, or a prefix if the
// grant covers more than one.
func clientString(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// lossInterval is how often the log hears of what was lost. Strangers can cause
// it, so it is told in sums.
const lossInterval = 10 * time.Second

// reportLosses logs what was lost since it last did, until ctx is done.
func (d *Daemon) reportLosses(ctx context.Context) {
	tick := time.NewTicker(lossInterval)
	defer tick.Stop()
	var letters, clients, connections, bans, notices, commands uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := d.shards.lost.Load() - letters; n > 0 {
			letters += n
			d.Log.Warn("knocks lost: more than could be read", "count", n)
		}
		if n := d.shards.full.Load() - clients; n > 0 {
			clients += n
			d.Log.Warn("clients not tracked: clients.max is reached", "count", n, "max", d.config.Load().Clients.Max)
		}
		if n := d.shards.unbanned.Load() - bans; n > 0 {
			bans += n
			d.Log.Warn("clients not banned: so many are", "count", n, "max", maxBanned)
		}
		if n := d.notices.Lost() - notices; n > 0 {
			notices += n
			d.Log.Warn("notices lost: more than could be sent", "count", n)
		}
		if n := d.commands.Lost() - commands; n > 0 {
			commands += n
			d.Log.Warn("commands not run: too many wait", "count", n)
		}
		var evicted uint64
		for _, l := range d.current() {
			evicted += l.Evicted()
		}
		if evicted > connections {
			d.Log.Warn("connections reset half-read: max_connections is reached", "count", evicted-connections)
		}
		connections = evicted
	}
}
