package nft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"

	"webknock/firewall"
)

// Guard implements firewall.Backend.
func (b *Backend) Guard(ctx context.Context, g firewall.Guard, grants []firewall.Grant) error {
	if slices.ContainsFunc(g.Doors, func(d firewall.Door) bool { return d.Name == reservedDoor }) {
		return fmt.Errorf("a door cannot be called %s: the table has sets of that name", reservedDoor)
	}
	return b.call(ctx, func() error { return b.guardLocked(g, grants) })
}

// guardLocked is Guard for a caller that holds b.lock.
func (b *Backend) guardLocked(g firewall.Guard, grants []firewall.Grant) error {
	r, current, err := b.writeGuard(g, grants)
	if err != nil {
		return err
	}
	if !r.isThere(current) {
		// Either another program has changed the table meanwhile, or this kernel returns a
		// rule in another form than it was written. If the kernel returns the same rules
		// after a second try, it is the latter.
		first := current
		if r, current, err = b.writeGuard(g, grants); err != nil {
			return err
		}
		if !r.isThere(current) && !sameRules(first, current) {
			return fmt.Errorf("nftables: table %s is not as it was written", b.table.Name)
		}
	}
	b.guard, b.current = &g, current
	b.noteEarlier()
	b.sendOn(grants)
	b.expel(b.intruders)
	b.intruders = nil
	return nil
}

// writeGuard writes the table. It returns the ruleset and the table as read back from the
// kernel.
func (b *Backend) writeGuard(g firewall.Guard, grants []firewall.Grant) (*ruleset, structure, error) {
	var current structure
	previous, err := b.read()
	if err != nil {
		return nil, current, err
	}
	r, err := b.ruleset(g)
	if err != nil {
		return nil, current, err
	}
	err = b.put(g, r, grants, previous, false)
	if errors.Is(err, syscall.EOPNOTSUPP) && !b.noLabels.Load() && !b.hasLabels() {
		b.noLabels.Store(true)
		b.log.Warn("nftables: " + errNoLabels.Error())
		if r, err = b.ruleset(g); err != nil {
			return nil, current, err
		}
		err = b.put(g, r, grants, previous, false)
	}
	if errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) {
		// The table cannot be changed into the ruleset, because another program or
		// version has created it. It is rebuilt with its grants.
		b.log.Warn("nftables: the table was made by another program or version, and is rebuilt", "table", b.table.Name, "error", err)
		err = b.put(g, r, grants, previous, true)
	}
	if err != nil && !errors.Is(err, syscall.ENOBUFS) {
		return nil, current, err
	}
	current, readErr := b.read()
	if readErr != nil {
		return nil, current, errors.Join(err, readErr)
	}
	if sets, rules := r.names(); !maps.Equal(current.rules(), rules) || !slices.Equal(current.Sets, sets) {
		return nil, current, errors.Join(err, fmt.Errorf("nftables: table %s is not as it was written", b.table.Name))
	}
	// Another program may have changed the table since it was written.
	for _, c := range r.chains {
		if c.Policy != nil && current.Chains[c.Name].Policy != *c.Policy {
			return nil, current, errors.Join(err, fmt.Errorf("nftables: chain %s of table %s is not as it was written", c.Name, b.table.Name))
		}
	}
	var changed []contentChange
	if readErr := b.do("read networks", func(c *nftables.Conn) (err error) {
		changed, err = b.contentChanges(c, r, func(string) bool { return true })
		return err
	}); readErr != nil || len(changed) > 0 {
		return nil, current, errors.Join(err, readErr, fmt.Errorf("nftables: the networks of table %s are not as they were written", b.table.Name))
	}
	return r, current, nil
}

// put writes the table in one transaction. If the table is already right, it writes only
// the missing grants. With rebuild, or if the owner changes, the transaction deletes the table and
// creates it again.
func (b *Backend) put(g firewall.Guard, r *ruleset, grants []firewall.Grant, previous structure, rebuild bool) error {
	if g.Owner {
		rebuild = rebuild || !previous.Info.owned() && !previous.Info.orphan()
	} else {
		rebuild = rebuild || previous.Info.owned()
	}
	rebuild = rebuild && previous.exists()
	t := tableChange{guard: g, ruleset: r, previous: previous, rebuild: rebuild}
	found, err := b.readContents(&t)
	if err != nil {
		return err
	}
	restore := b.toRestore(t, grants, found)
	b.planEarlier(g, previous, rebuild, found)
	if t.addEarlier, t.removeEarlier, err = b.earlierChanges(previous, rebuild); err != nil {
		return err
	}
	if !rebuild && len(t.contents) == 0 && r.isThere(previous) {
		if err := b.keepTable(t); err != nil {
			return err
		}
		return b.putBack(g, restore)
	}
	if !previous.exists() || rebuild {
		for i := range restore {
			restore[i].New = true
		}
	}
	t.grants = restore[:min(len(restore), maxChanges)]
	began := time.Now()
	err = b.do("guard the doors", func(c *nftables.Conn) error { return b.writeTable(c, t) })
	if err == nil {
		err = b.correct(g, t.grants, time.Since(began))
	}
	if err != nil {
		return err
	}
	return b.putBack(g, restore[len(t.grants):])
}

// tableChange is a transaction that turns the table previous into the ruleset of guard.
type tableChange struct {
	guard                     firewall.Guard
	ruleset                   *ruleset
	previous                  structure
	rebuild                   bool            // delete the table first
	contents                  []contentChange // of the sets of networks
	addEarlier, removeEarlier []string        // keys of sessions from before the guard
	grants                    []change
}

// readContents returns the grants in the table and sets t.contents. It adds elements of
// other programs to b.intruders.
func (b *Backend) readContents(t *tableChange) (map[grantKey]element, error) {
	found := map[grantKey]element{}
	var err error
	if !t.previous.exists() {
		t.contents, err = b.contentChanges(nil, t.ruleset, func(string) bool { return false })
		return found, err
	}
	exists := func(set string) bool { return slices.Contains(t.previous.Sets, set) }
	kept := func(set string) bool { return !t.rebuild && exists(set) }
	err = b.do("read grants and networks", func(c *nftables.Conn) error {
		elements, err := b.elements(c, t.guard, exists)
		if err != nil {
			return err
		}
		for _, e := range elements {
			found[grantKey{e.Door, e.Client}] = e
		}
		if t.contents, err = b.contentChanges(c, t.ruleset, kept); err != nil {
			return err
		}
		intruders, err := b.strangers(c, t.guard, t.previous)
		b.intruders = append(b.intruders, intruders...)
		return err
	})
	return found, err
}

// toRestore returns the grants that have to be written: those that the table lacks, or all if
// it is rebuilt. They allow no further connections, because the count is lost.
func (b *Backend) toRestore(t tableChange, grants []firewall.Grant, found map[grantKey]element) (restore []change) {
	now := clock()
	for _, grant := range grants {
		if _, exists := found[grantKey{grant.Door, grant.Client}]; !exists && hasDoor(t.guard, grant.Door) {
			restore = append(restore, change{&firewall.Change{Grant: grant, Again: true, Spent: true}, comment(grant, now)})
		}
	}
	countLost := func(e element) bool {
		door := t.guard.Door(e.Door)
		set := b.connectionSet(*door, familyOf(e.Client.Addr())).Name
		return door.Connections > 0 && slices.Contains(b.current.Sets, set) &&
			(t.previous.Info.Handle != b.current.Info.Handle || !slices.Contains(t.previous.Sets, set))
	}
	for _, e := range found {
		if e.Origin != firewall.Foreign && (t.rebuild || countLost(e)) {
			e.Expires = e.Ends
			restore = append(restore, change{&firewall.Change{Grant: e.Grant, Again: true, Spent: true}, e.comment})
		}
	}
	return restore
}

// keepTable changes only the owner of the table and the sessions from before the guard.
func (b *Backend) keepTable(t tableChange) error {
	return b.do("claim the table", func(c *nftables.Conn) error {
		claim := b.claim
		if t.guard.Owner {
			claim = b.adopt
		}
		if err := claim(t.previous.Info); err != nil || len(t.addEarlier)+len(t.removeEarlier) == 0 {
			return err
		}
		return errors.Join(b.queueEarlier(c, t.addEarlier, t.removeEarlier), c.Flush())
	})
}

// writeTable carries out t.
func (b *Backend) writeTable(c *nftables.Conn, t tableChange) error {
	c, flush, err := b.prepare(c, t.guard.Owner, t.previous.Info, t.rebuild)
	if err != nil {
		return err
	}
	r, previous := t.ruleset, t.previous
	if t.rebuild {
		previous = structure{}
	}
	// All rules are deleted first, because a chain or set cannot be deleted while a rule
	// refers to it.
	for name := range previous.Chains {
		c.FlushChain(b.chain(name))
	}
	for name, chain := range previous.Chains {
		if !chain.becomes(r.chain(name)) {
			c.DelChain(b.chain(name))
		}
	}
	var failed error
	for _, set := range r.sets {
		failed = errors.Join(failed, c.AddSet(set, nil))
	}
	failed = errors.Join(failed, b.queueEarlier(c, t.addEarlier, t.removeEarlier), applyContents(c, t.contents))
	for _, chain := range r.chains {
		c.AddChain(chain.Chain)
	}
	for _, chain := range r.chains {
		for _, rule := range chain.rules {
			c.AddRule(&nftables.Rule{Table: b.table, Chain: chain.Chain, Exprs: rule.exprs()})
		}
	}
	sets, _ := r.names()
	for _, name := range previous.Sets {
		if !slices.Contains(sets, name) {
			c.DelSet(&nftables.Set{Table: b.table, Name: name})
		}
	}
	if failed = errors.Join(failed, b.queue(c, t.guard, t.grants)); failed != nil {
		return failed
	}
	return flush()
}

// putBack adds grants to the table.
func (b *Backend) putBack(g firewall.Guard, grants []change) error {
	for part := range slices.Chunk(grants, maxChanges) {
		if err := b.write("put grants back", g, part); err != nil {
			return err
		}
	}
	return nil
}

// names returns the names of the sets, and the number of rules of each chain.
func (r *ruleset) names() (sets []string, rules map[string]int) {
	rules = map[string]int{}
	for _, s := range r.sets {
		sets = append(sets, s.Name)
	}
	slices.Sort(sets)
	for _, c := range r.chains {
		rules[c.Name] = len(c.rules)
	}
	return sets, rules
}

// chain returns the chain with a name, or nil.
func (r *ruleset) chain(name string) *nftables.Chain {
	for _, c := range r.chains {
		if c.Name == name {
			return c.Chain
		}
	}
	return nil
}

// isThere reports whether the table s equals r, apart from the elements of sets.
func (r *ruleset) isThere(s structure) bool {
	sets, rules := r.names()
	if !s.exists() || s.Info.Flags&^(tableOwner|tablePersist) != 0 || !slices.Equal(s.Sets, sets) || !maps.Equal(s.rules(), rules) {
		return false
	}
	for _, set := range r.sets {
		if s.Kinds[set.Name] != kindOf(set) {
			return false
		}
	}
	for _, c := range r.chains {
		current := s.Chains[c.Name]
		if !current.becomes(c.Chain) || c.Policy != nil && current.Policy != *c.Policy {
			return false
		}
		for i, rule := range c.rules {
			if !sameExprs(current.Rules[i], rule.exprs()) {
				return false
			}
		}
	}
	return true
}

func hasDoor(g firewall.Guard, name string) bool { return g.Door(name) != nil }

type grantKey struct {
	door   string
	client netip.Prefix
}

// Unguard implements firewall.Backend.
func (b *Backend) Unguard(ctx context.Context) error { return b.call(ctx, b.unguardLocked) }

// unguardLocked is Unguard for a caller that holds b.lock.
func (b *Backend) unguardLocked() error {
	b.guard, b.current = nil, structure{}
	current, err := b.read()
	if err != nil {
		return err
	}
	b.planUnguarded()
	if current.exists() {
		err := b.do("remove the table", func(c *nftables.Conn) error {
			if err := b.claim(current.Info); err != nil {
				return err
			}
			c.DelTable(b.table)
			return c.Flush()
		})
		if err != nil {
			return err
		}
	}
	b.noteEarlier()
	return nil
}

// Check implements firewall.Backend.
func (b *Backend) Check(ctx context.Context) error { return b.call(ctx, b.checkLocked) }

// checkLocked is Check for a caller that holds b.lock.
func (b *Backend) checkLocked() error {
	if b.guard == nil {
		return firewall.ErrNotGuarded
	}
	current, err := b.read()
	if err != nil {
		return err
	}
	current.Info.Owner = b.current.Info.Owner // the port of a netlink socket, which may have been reopened
	if !reflect.DeepEqual(current, b.current) {
		return fmt.Errorf("table %s: %w", b.table.Name, firewall.ErrNotGuarded)
	}
	sessions, err := b.readEarlier()
	if err != nil {
		return err
	}
	if !maps.EqualFunc(sessions, b.earlier.sessions, func(bool, session) bool { return true }) {
		return fmt.Errorf("the sessions from before the guard in table %s: %w", b.table.Name, firewall.ErrNotGuarded)
	}
	return nil
}
