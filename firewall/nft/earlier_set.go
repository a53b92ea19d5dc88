package nft

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/nftables"

	"webknock/firewall"
)

// planEarlier determines which sessions are from before a guard that is about to be
// written over the table previous. The caller holds b.lock, and calls noteEarlier when
// the guard is written.
func (b *Backend) planEarlier(g firewall.Guard, before structure, rebuild bool, running map[grantKey]element) {
	first := b.earlier == nil
	b.loadEarlier()
	next, saved := b.earlier.clone(), true
	var err error
	there := map[string]bool{}
	if slices.Contains(before.Sets, b.beforeSet(families[0]).Name) {
		there, err = b.readEarlier()
	}
	if !next.known && len(before.Sets) > 0 && !rebuild && !before.lastVersion() {
		// The guard exists since an earlier start in this boot, but the record is missing.
		// The sessions from before it are in its sets.
		next.known, next.ports, saved = true, tcpPorts(g), false
		up, upErr := upSessions(func(p uint16) bool { return among(p, next.ports) })
		err = errors.Join(err, upErr)
		for _, s := range up {
			if there[s.key()] {
				next.sessions[s.key()] = s
			}
		}
	}
	// A table of another version may have let in sessions under grants. At doors that cut,
	// these must end; at other doors they live on.
	except := func(s session) bool {
		door := guards(g, s.guardedPort())
		if !before.exists() || door == nil || door.Established != firewall.Cut {
			return false
		}
		_, granted := running[grantKey{door.Name, door.Scope(s.Client.Addr())}]
		return granted || before.lastVersion() && !there[s.key()]
	}
	noted, noteErr := next.guard(tcpPorts(g), except, upSessions)
	if first || rebuild || !before.exists() {
		err = errors.Join(err, b.forgetEnded(next))
	}
	if err = errors.Join(err, noteErr); err != nil {
		b.log.Warn("nftables: sessions that are up cannot all be listed; some may hang", "error", err)
	}
	b.coming, b.comingSaved = next, saved && !noted
}

// planUnguarded determines which sessions are up when the administrator removes the guard.
// Sessions that are not from before this guard will not count as such for the next guard
// either. The caller holds b.lock, and calls noteEarlier when the guard is gone.
func (b *Backend) planUnguarded() {
	b.loadEarlier()
	b.coming, b.comingSaved = b.earlier.clone(), true
	if !b.coming.known {
		return
	}
	noted, err := b.coming.guard(nil, func(session) bool { return false }, upSessions)
	if err != nil {
		b.log.Warn("nftables: sessions that are up cannot all be listed; some may live on after the next guard", "error", err)
	}
	b.comingSaved = !noted
}

// noteEarlier puts the plan in force after the kernel has carried it out. The caller holds
// b.lock.
func (b *Backend) noteEarlier() {
	b.earlier, b.coming = b.coming, nil
	if !b.comingSaved {
		b.saveEarlier()
	}
	if len(b.earlier.sessions) > 0 {
		select {
		case b.earlierNoted <- struct{}{}:
		default:
		}
	}
}

// readEarlier returns the keys of the sets' elements.
func (b *Backend) readEarlier() (map[string]bool, error) {
	there := map[string]bool{}
	err := b.do("read the sessions from before the guard", func(c *nftables.Conn) error {
		for _, f := range families {
			elements, err := c.GetSetElements(b.beforeSet(f))
			if err != nil {
				return err
			}
			for _, e := range elements {
				there[string(e.Key)] = true
			}
		}
		return nil
	})
	return there, err
}

// forgetEnded removes the sessions that have ended.
func (b *Backend) forgetEnded(e *earlier) error {
	if len(e.sessions) == 0 {
		return nil
	}
	c, err := newChecker()
	if err != nil {
		return err
	}
	defer c.close()
	for key, s := range e.sessions {
		up, err := c.up(s)
		if err != nil {
			return err
		}
		if !up {
			delete(e.sessions, key)
		}
	}
	return nil
}

// elementsOf returns the sessions with these keys as elements of the set of a
// family.
func elementsOf(keys []string, f family) (all []nftables.SetElement) {
	for _, key := range keys {
		if len(key) == 2*int(f.size)+8 {
			all = append(all, nftables.SetElement{Key: []byte(key)})
		}
	}
	return all
}

// queueEarlier queues messages on c that add elements to the sets and delete others, which
// may be missing.
func (b *Backend) queueEarlier(c *nftables.Conn, add, remove []string) error {
	var failed error
	for _, f := range families {
		set := b.beforeSet(f)
		for part := range slices.Chunk(elementsOf(remove, f), chunk) {
			failed = errors.Join(failed, c.SetAddElements(set, part), c.SetDeleteElements(set, part))
		}
		for part := range slices.Chunk(elementsOf(add, f), chunk) {
			failed = errors.Join(failed, c.SetAddElements(set, part))
		}
	}
	return failed
}

// earlierChanges returns the elements to add to the sets and to delete from them according to
// the plan.
func (b *Backend) earlierChanges(before structure, rebuild bool) (add, remove []string, err error) {
	there := map[string]bool{}
	if !rebuild && slices.Contains(before.Sets, b.beforeSet(families[0]).Name) {
		if there, err = b.readEarlier(); err != nil {
			return nil, nil, err
		}
	}
	for key := range b.coming.sessions {
		if !there[key] {
			add = append(add, key)
		}
	}
	for key := range there {
		if _, ours := b.coming.sessions[key]; !ours {
			remove = append(remove, key)
		}
	}
	return add, remove, nil
}

const (
	checkInterval   = 5 * time.Second // between two looks at sessions from before the guard
	checkAtOnce     = 512             // of them, in one look: some milliseconds
	refreshInterval = setTimeout / 4  // of elements whose session is still up
)

// watchEarlier removes ended sessions from the sets until ctx is done.
func (b *Backend) watchEarlier(ctx context.Context) {
	timer := time.NewTimer(checkInterval)
	defer timer.Stop()
	var waiting []session // to be looked at in this round
	refreshed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.earlierNoted:
			timer.Reset(checkInterval)
			continue
		case <-timer.C:
		}
		if len(waiting) == 0 {
			if b.lock.acquire(ctx) != nil {
				return
			}
			if b.earlier != nil && b.guard != nil {
				waiting = slices.Collect(maps.Values(b.earlier.sessions))
			}
			b.lock.release()
			if len(waiting) == 0 {
				continue
			}
		}
		now := waiting[:min(len(waiting), checkAtOnce)]
		if err := b.takeOut(ctx, now); err != nil {
			b.log.Debug("nftables: sessions from before the guard cannot be looked at", "error", err)
		} else {
			waiting = waiting[len(now):]
		}
		if time.Since(refreshed) > refreshInterval {
			if err := b.refreshEarlier(ctx); err == nil {
				refreshed = time.Now()
			}
		}
		timer.Reset(checkInterval)
	}
}

// takeOut removes from the sets those of the given sessions that have ended.
func (b *Backend) takeOut(ctx context.Context, some []session) error {
	c, err := newChecker()
	if err != nil {
		return err
	}
	defer c.close()
	var over []session
	for _, s := range some {
		up, err := c.up(s)
		if err != nil {
			return err
		}
		if !up {
			over = append(over, s)
		}
	}
	if len(over) == 0 {
		return nil
	}
	if err := b.lock.acquire(ctx); err != nil {
		return err
	}
	defer b.lock.release()
	var keys []string
	for _, s := range over {
		if b.earlier.sessions[s.key()].ID == s.ID {
			delete(b.earlier.sessions, s.key()) // a restart looks whether it is up, so it need not be saved
			keys = append(keys, s.key())
		}
	}
	if b.guard == nil {
		return nil
	}
	return b.do("take out sessions that are over", func(c *nftables.Conn) error {
		return errors.Join(b.queueEarlier(c, nil, keys), c.Flush())
	})
}

// refreshEarlier resets the timeout of all elements. When no daemon does so any more, the
// kernel removes them.
func (b *Backend) refreshEarlier(ctx context.Context) error {
	if err := b.lock.acquire(ctx); err != nil {
		return err
	}
	defer b.lock.release()
	if b.guard == nil {
		return nil
	}
	keys := slices.Collect(maps.Keys(b.earlier.sessions))
	return b.do("refresh sessions from before the guard", func(c *nftables.Conn) error {
		return errors.Join(b.queueEarlier(c, keys, keys), c.Flush())
	})
}
