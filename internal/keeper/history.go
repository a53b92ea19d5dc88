package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/firewall/nft"
	"webknock/httpd/admin"
	"webknock/internal/event"
	"webknock/internal/history"
)

const (
	historyQueue = 1 << 14
	flushTimeout = time.Second     // for what has just happened to be written before it is read
	readTimeout  = 5 * time.Second // of the history
)

// newHistory returns the log of the history. A dry run lets nobody in, and has none.
func (k *Keeper) newHistory(cfg *config.Config) *history.Log {
	boot := history.Boot{ID: nft.BootID(), At: time.Now().Add(-nft.BootTime())}
	return history.NewLog(k.store, k.historyLimits(cfg), boot, k.log)
}

func (k *Keeper) historyLimits(cfg *config.Config) history.Limits {
	if k.options.DryRun {
		return history.Limits{}
	}
	return history.Limits{Keep: cfg.History.Keep, Max: cfg.History.Max}
}

// A historian turns events into entries of the history.
type historian struct {
	log  *history.Log
	bans sums
}

func newHistorian(log *history.Log) *historian {
	return &historian{log: log, bans: sums{tell: func(more int) {
		log.Add(history.Entry{Time: time.Now(), Event: history.Banned, Reason: fmt.Sprintf("%d more clients were banned, which have no entries of their own", more)})
	}}}
}

func (h *historian) handle(r event.Record) {
	switch e := r.Event.(type) {
	case event.GrantOpened:
		h.log.Opened(e.Grant, r.Time)
	case event.GrantExtended:
		h.log.Extended(e.Grant, r.Time)
	case event.GrantAdopted:
		h.log.Adopted(e.Grant)
	case event.GrantClosed:
		h.log.Closed(e.Grant, e.Reason, r.Time)
	case event.Ban:
		if h.bans.add() {
			h.log.Add(history.Entry{Time: e.At, Event: history.Banned, Client: firewall.ClientString(e.Ban.Client), Reason: e.Reason, Expires: e.Ban.Until})
		}
	case event.Unban:
		h.log.Add(history.Entry{Time: r.Time, Event: history.Unbanned, Client: firewall.ClientString(e.Client)})
	case event.GrantRefused:
		c := e.Completion
		refused := history.Entry{
			Time: r.Time, Event: history.Refused, Client: c.Client.String(), Sequence: c.Sequence, Door: strings.Join(e.Doors, ","), User: c.User, Reason: e.Err.Error(),
		}
		if c.Address != c.Client {
			refused.Reason = fmt.Sprintf("for %s: %s", c.Address, refused.Reason)
		}
		h.log.Add(refused)
	case event.Reload:
		reload := history.Entry{Time: r.Time, Event: history.Reload}
		if e.Err != nil {
			reload.Reason = e.Err.Error()
		}
		h.log.Add(reload)
	case event.Repair:
		h.log.Add(history.Entry{Time: r.Time, Event: history.Repair, Reason: e.Reason})
	case event.FrontEnded:
		h.log.Add(history.Entry{Time: r.Time, Event: history.Degraded, Reason: "the front has ended, and was started again: " + e.Reason})
	case event.CommandsEnded:
		h.log.Add(history.Entry{Time: r.Time, Event: history.Degraded, Reason: "the process that runs commands has ended, and was started again: " + e.Reason})
	case event.Degraded:
		entry := history.Entry{Time: r.Time, Event: history.Degraded, Reason: strings.Join(e.Problems, "; ")}
		if len(e.Problems) == 0 {
			entry.Event = history.Recovered
		}
		h.log.Add(entry)
	case event.Admin:
		entry := history.Entry{Time: r.Time, Event: history.Admin, Client: e.Client, Door: e.Door, Grant: e.Grant, Reason: e.Act}
		if e.Known {
			entry.UID = &e.UID
		}
		h.log.Add(entry)
	}
}

// The bans of an hour that have entries of their own. Strangers can have as many
// addresses banned as they have, and must not push out who came in.
const (
	singleBans = 30
	banHour    = time.Hour
)

// sums count what happens too often to be told one by one: the first of an hour are told,
// and then how many more there were.
type sums struct {
	tell func(more int)

	mu    sync.Mutex
	told  int
	more  int
	hour  *time.Timer // ends the hour; nil: none has begun
	ended bool
}

// add reports whether what has happened is told by itself.
func (s *sums) add() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hour == nil && !s.ended {
		s.hour = time.AfterFunc(banHour, s.end)
	}
	if s.told >= singleBans {
		s.more++
		return false
	}
	s.told++
	return true
}

// end ends the hour.
func (s *sums) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.more > 0 {
		s.tell(s.more)
	}
	s.told, s.more, s.hour = 0, 0, nil
}

// stop ends the hour before its time, and no other begins.
func (s *sums) stop() {
	s.mu.Lock()
	if s.hour != nil {
		s.hour.Stop()
	}
	s.ended = true
	s.mu.Unlock()
	s.end()
}

// recoverHistory makes up for missed events: the gate knows which grants there are.
func (k *Keeper) recoverHistory(n uint64) {
	for {
		grants, err := k.gate.Grants(context.Background())
		switch {
		case err == nil:
			k.history.Missed(n, grants)
			return
		case errors.Is(err, firewall.ErrStopped):
			return // the next start finds out
		}
		time.Sleep(recoverRetry)
	}
}

// acted publishes what an administrator has done.
func (k *Keeper) acted(ctx context.Context, a event.Admin) {
	if peer, ok := admin.Peer(ctx); ok {
		a.UID, a.Known = peer.UID, true
	}
	k.events.Publish(a)
}

// History implements admin.Control.
func (k *Keeper) History(ctx context.Context, q admin.HistoryQuery) (admin.HistoryList, error) {
	if k.options.DryRun {
		return admin.HistoryList{}, nil
	}
	k.flushHistory(ctx)
	type result struct {
		list admin.HistoryList
		err  error
	}
	read := make(chan result, 1) // the disk may hang
	go func() {
		list, err := ReadHistory(k.store, q)
		read <- result{list, err}
	}()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	select {
	case r := <-read:
		if errors.Is(r.err, history.ErrCursor) {
			return admin.HistoryList{}, admin.NewProblem(http.StatusBadRequest, "cursor: "+r.err.Error())
		}
		return r.list, problemOf(r.err)
	case <-ctx.Done():
		return admin.HistoryList{}, admin.NewProblem(http.StatusServiceUnavailable, fmt.Sprintf("the history cannot be read: the disk has not answered for %v", readTimeout))
	}
}

// flushHistory writes what has happened until now. If that fails the history is shown
// without it, and the status says why.
func (k *Keeper) flushHistory(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if k.historyEvents.Flush(ctx) == nil {
		k.history.Flush(ctx)
	}
}

// ReadHistory reads the history as the admin API has it.
func ReadHistory(r history.Reader, q admin.HistoryQuery) (admin.HistoryList, error) {
	filter := history.Filter{User: q.User, Door: q.Door, Client: q.Client, Since: q.Since, After: q.After, Limit: q.Limit, Cursor: q.Cursor}
	for _, e := range q.Events {
		filter.Events = append(filter.Events, history.Event(e))
	}
	p, err := history.Query(r, filter)
	if err != nil {
		return admin.HistoryList{}, err
	}
	list := admin.HistoryList{Last: p.Last}
	if p.Next != "" {
		list.Next = &p.Next
	}
	for _, e := range p.Entries {
		entry := admin.HistoryEntry{
			ID: e.ID, Time: e.Time, Event: string(e.Event), Client: e.Client, Sequence: e.Sequence, Door: e.Door, User: e.User, Grant: e.Grant, Reason: e.Reason,
			OpenedAt: orNull(e.Opened), ExpiresAt: orNull(e.Expires), UID: e.UID,
		}
		if e.Event == history.Closed {
			entry.ClosedAt = orNull(e.Time)
		}
		if e.Traffic != nil {
			entry.Packets, entry.Bytes = &e.Traffic.Packets, &e.Traffic.Bytes
		}
		list.Entries = append(list.Entries, entry)
	}
	return list, nil
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
