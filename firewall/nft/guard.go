package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// Guard implements firewall.Backend.
func (b *Backend) Guard(ctx context.Context, g firewall.Guard, grants []firewall.Grant) error {
	if slices.ContainsFunc(g.Doors, func(d firewall.Door) bool { return d.Name == reservedDoor }) {
		return fmt.Errorf("a door cannot be called %s: that is the name of a set in the table", reservedDoor)
	}
	return b.call(ctx, func() error { return b.putUp(g, grants) })
}

// putUp is Guard for a caller whose turn it is.
func (b *Backend) putUp(g firewall.Guard, grants []firewall.Grant) error {
	r, there, err := b.writeGuard(g, grants)
	if err != nil {
		return err
	}
	if !r.isThere(there) {
		// Either somebody has changed it between, or this kernel describes a rule
		// otherwise than it is written. If it does so again, it is the latter.
		first := there
		if r, there, err = b.writeGuard(g, grants); err != nil {
			return err
		}
		if !r.isThere(there) && !sameRules(first, there) {
			return fmt.Errorf("nftables: table %s is not as it was written", b.table.Name)
		}
	}
	b.guard, b.there = &g, there
	b.noteEarlier()
	b.sendOn(grants)
	b.expel(b.intruders)
	b.intruders = nil
	return nil
}

// writeGuard writes the table and returns what it wrote, and what the kernel has.
func (b *Backend) writeGuard(g firewall.Guard, grants []firewall.Grant) (*ruleset, structure, error) {
	var there structure
	before, err := b.read()
	if err != nil {
		return nil, there, err
	}
	r, err := b.ruleset(g)
	if err != nil {
		return nil, there, err
	}
	err = b.put(g, r, grants, before, false)
	if errors.Is(err, syscall.EOPNOTSUPP) && !b.noLabels.Load() && !b.hasLabels() {
		b.noLabels.Store(true)
		b.log.Warn("nftables: " + errNoLabels.Error())
		if r, err = b.ruleset(g); err != nil {
			return nil, there, err
		}
		err = b.put(g, r, grants, before, false)
	}
	if errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) {
		// What is there cannot become what is wanted: another program's
		// table of that name. Its grants are kept.
		b.log.Warn("nftables: the table is not of this version, it is made anew", "table", b.table.Name, "error", err)
		err = b.put(g, r, grants, before, true)
	}
	if err != nil && !errors.Is(err, syscall.ENOBUFS) {
		return nil, there, err
	}
	there, readErr := b.read()
	if readErr != nil {
		return nil, there, errors.Join(err, readErr)
	}
	if sets, rules := r.names(); !maps.Equal(there.rules(), rules) || !slices.Equal(there.Sets, sets) {
		return nil, there, errors.Join(err, fmt.Errorf("nftables: table %s is not as it was written", b.table.Name))
	}
	// Somebody else may have changed it since: that must not count as right.
	for _, c := range r.chains {
		if c.Policy != nil && there.Chains[c.Name].Policy != *c.Policy {
			return nil, there, errors.Join(err, fmt.Errorf("nftables: chain %s of table %s is not as it was written", c.Name, b.table.Name))
		}
	}
	var changed []fillChange
	if readErr := b.talk("read networks", func(c *nftables.Conn) (err error) {
		changed, err = b.fillChanges(c, r, func(string) bool { return true })
		return err
	}); readErr != nil || len(changed) > 0 {
		return nil, there, errors.Join(err, readErr, fmt.Errorf("nftables: the networks of table %s are not as they were written", b.table.Name))
	}
	return r, there, nil
}

// sameRules reports whether two tables have the same rules.
func sameRules(a, b structure) bool {
	return maps.EqualFunc(a.Chains, b.Chains, func(x, y chainStructure) bool { return reflect.DeepEqual(x.Rules, y.Rules) })
}

// put writes the whole table in one transaction, or only the grants that are
// missing if the table is as it should be.
func (b *Backend) put(g firewall.Guard, r *ruleset, grants []firewall.Grant, before structure, rebuild bool) error {
	if g.Owner {
		rebuild = rebuild || !before.Info.owned() && !before.Info.orphan()
	} else {
		rebuild = rebuild || before.Info.owned()
	}
	rebuild = rebuild && before.exists()
	running := map[grantKey]element{}
	fills, err := b.fillChanges(nil, r, func(string) bool { return false })
	if before.exists() {
		there := func(set string) bool { return slices.Contains(before.Sets, set) }
		err = b.talk("read grants and networks", func(c *nftables.Conn) error {
			found, err := b.elements(c, g, there)
			for _, e := range found {
				running[grantKey{e.Door, e.Client}] = e
			}
			if err == nil && !rebuild {
				fills, err = b.fillChanges(c, r, there)
			}
			if err == nil {
				var more []firewall.Grant
				more, err = b.strangers(c, g, before)
				b.intruders = append(b.intruders, more...)
			}
			return err
		})
	}
	if err != nil {
		return err
	}
	// How many connections a grant has allowed that was not there is unknown;
	// so it is of one that is put into a table that is made anew.
	var restore []change
	now := clock()
	for _, grant := range grants {
		if _, there := running[grantKey{grant.Door, grant.Client}]; !there && hasDoor(g, grant.Door) {
			restore = append(restore, change{&firewall.Change{Grant: grant, Again: true, Spent: true}, comment(grant, now)})
		}
	}
	lost := func(e element) bool { // the count of its connections
		door := g.Door(e.Door)
		set := b.connectionSet(*door, familyOf(e.Client.Addr())).Name
		return door.Connections > 0 && slices.Contains(b.there.Sets, set) && (before.Info.Handle != b.there.Info.Handle || !slices.Contains(before.Sets, set))
	}
	for _, e := range running {
		if rebuild || lost(e) {
			if e.Origin != firewall.Foreign {
				e.Expires = e.Ends
				restore = append(restore, change{&firewall.Change{Grant: e.Grant, Again: true, Spent: true}, e.comment})
			}
		}
	}
	b.planEarlier(g, before, rebuild, running)
	add, remove, err := b.earlierChanges(before, rebuild)
	if err != nil {
		return err
	}
	if !rebuild && len(fills) == 0 && r.isThere(before) {
		err := b.talk("claim the table", func(c *nftables.Conn) error {
			claim := b.claim
			if g.Owner {
				claim = b.adopt
			}
			if err := claim(before.Info); err != nil || len(add)+len(remove) == 0 {
				return err
			}
			return errors.Join(b.queueEarlier(c, add, remove), c.Flush())
		})
		if err != nil {
			return err
		}
		return b.putBack(g, restore)
	}
	if !before.exists() || rebuild {
		for i := range restore {
			restore[i].New = true
		}
	}
	first := restore[:min(len(restore), maxChanges)]
	began := time.Now()
	err = b.talk("guard the doors", func(c *nftables.Conn) error {
		c, flush, err := b.prepare(c, g.Owner, before.Info, rebuild)
		if err != nil {
			return err
		}
		if rebuild {
			before = structure{}
		}
		// No rule refers any more to what goes.
		for name := range before.Chains {
			c.FlushChain(b.chain(name))
		}
		for name, chain := range before.Chains {
			if !chain.becomes(r.chain(name)) {
				c.DelChain(b.chain(name))
			}
		}
		var failed error
		for _, set := range r.sets {
			failed = errors.Join(failed, c.AddSet(set, nil))
		}
		failed = errors.Join(failed, b.queueEarlier(c, add, remove))
		failed = errors.Join(failed, applyFills(c, fills))
		for _, chain := range r.chains {
			c.AddChain(chain.Chain)
		}
		for _, chain := range r.chains {
			for _, rule := range chain.rules {
				c.AddRule(&nftables.Rule{Table: b.table, Chain: chain.Chain, Exprs: rule.exprs()})
			}
		}
		sets, _ := r.names()
		for _, name := range before.Sets {
			if !slices.Contains(sets, name) {
				c.DelSet(&nftables.Set{Table: b.table, Name: name})
			}
		}
		if failed = errors.Join(failed, b.queue(c, g, first)); failed != nil {
			return failed
		}
		return flush()
	})
	if err == nil {
		err = b.correct(g, first, time.Since(began))
	}
	if err != nil {
		return err
	}
	return b.putBack(g, restore[len(first):])
}

// putBack puts grants into a table that is there.
func (b *Backend) putBack(g firewall.Guard, grants []change) error {
	for part := range slices.Chunk(grants, maxChanges) {
		if err := b.write("put grants back", g, part); err != nil {
			return err
		}
	}
	return nil
}

// names returns the names of the sets, and how many rules each chain has.
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

// chain returns the chain of a name, or nil.
func (r *ruleset) chain(name string) *nftables.Chain {
	for _, c := range r.chains {
		if c.Name == name {
			return c.Chain
		}
	}
	return nil
}

// isThere reports whether s is what r wants, so that nothing needs to be
// written. It does not compare what is in the sets.
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
		there := s.Chains[c.Name]
		if !there.becomes(c.Chain) || c.Policy != nil && there.Policy != *c.Policy {
			return false
		}
		for i, rule := range c.rules {
			if !sameExprs(there.Rules[i], rule.exprs()) {
				return false
			}
		}
	}
	return true
}

// errNoLabels is what the status says of a kernel without labels.
var errNoLabels = errors.New("the kernel has no labels of connections (CONFIG_NF_CONNTRACK_LABELS): " +
	"doors with established: keep know a running session by its state alone, so one that begins while the table is gone lives on after the repair")

// Problem returns what the kernel lacks for the guard to be whole, or nil.
func (b *Backend) Problem() error {
	if b.noLabels.Load() {
		return errNoLabels
	}
	return nil
}

// hasLabels asks the kernel for a rule that sets a label, in a table that goes
// in the same transaction.
func (b *Backend) hasLabels() bool {
	err := b.talk("try labels of connections", func(c *nftables.Conn) error {
		table := c.AddTable(tableNamed(b.table.Name + "-try"))
		chain := c.AddChain(&nftables.Chain{Table: table, Name: "try"})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: setLabel.exprs})
		c.DelTable(table)
		return c.Flush()
	})
	return !errors.Is(err, syscall.EOPNOTSUPP)
}

func hasDoor(g firewall.Guard, name string) bool { return g.Door(name) != nil }

type grantKey struct {
	door   string
	client netip.Prefix
}

// Unguard implements firewall.Backend.
func (b *Backend) Unguard(ctx context.Context) error { return b.call(ctx, b.takeAway) }

// takeAway is Unguard for a caller whose turn it is.
func (b *Backend) takeAway() error {
	b.guard, b.there = nil, structure{}
	there, err := b.read()
	if err != nil {
		return err
	}
	b.planUnguarded()
	if there.exists() {
		err := b.talk("remove the table", func(c *nftables.Conn) error {
			if err := b.claim(there.Info); err != nil {
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
func (b *Backend) Check(ctx context.Context) error { return b.call(ctx, b.check) }

// check is Check for a caller whose turn it is.
func (b *Backend) check() error {
	if b.guard == nil {
		return firewall.ErrNotGuarded
	}
	there, err := b.read()
	if err != nil {
		return err
	}
	there.Info.Owner = b.there.Info.Owner // the port of a socket that may have been opened anew
	if !reflect.DeepEqual(there, b.there) {
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

// structure is the table as the kernel has it, grants, bans and counts apart.
type structure struct {
	Info   tableInfo
	Chains map[string]chainStructure
	Sets   []string // names, sorted
	Kinds  map[string]setKind
	// Networks is what the sets of networks hold, by set.
	Networks map[string][]string
}

// exists reports whether there is a table.
func (s structure) exists() bool { return s.Info.Handle != 0 }

// lastVersion reports whether the table is one of the version before labels,
// which guarded at prerouting.
func (s structure) lastVersion() bool {
	c, ok := s.Chains["guard"]
	return ok && c.Base && c.Hook == *nftables.ChainHookPrerouting
}

// setKind is what a set is, its contents apart.
type setKind struct {
	Type                       string
	Interval, Dynamic, Timeout bool
	After                      time.Duration // an element without a timeout of its own goes
	Size                       uint32
}

func kindOf(s *nftables.Set) setKind {
	return setKind{s.KeyType.Name, s.Interval, s.Dynamic, s.HasTimeout, s.Timeout, s.Size}
}

type chainStructure struct {
	Base     bool
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Policy   nftables.ChainPolicy
	Handles  []uint64 // of Rules: others, if they were deleted and made again
	Rules    [][]expr.Any
}

// becomes reports whether the chain can be kept as c. A chain stays hooked where
// it was made.
func (s chainStructure) becomes(c *nftables.Chain) bool {
	if c == nil || s.Base != (c.Hooknum != nil) {
		return false
	}
	return !s.Base || s.Type == c.Type && s.Hook == *c.Hooknum && s.Priority == *c.Priority
}

// rules returns how many rules each chain has.
func (s structure) rules() map[string]int {
	n := map[string]int{}
	for name, c := range s.Chains {
		n[name] = len(c.Rules)
	}
	return n
}

// read returns what is in the table. If it has just been read, and no transaction
// of anybody's has begun since, it asks the kernel for no more than that: a repair
// must not wait for the same twice. What was read while a transaction was being
// committed may be of the time before, though the ruleset has its new number: so it
// counts only until the end of a transaction is told, and not for long.
func (b *Backend) read() (structure, error) {
	if b.stale.Swap(false) || time.Since(b.seenSince) > fresh {
		b.seen = nil
	}
	before, err := b.generation()
	if err != nil {
		return structure{}, err
	}
	if b.seen != nil && b.seenAt == before {
		return *b.seen, nil
	}
	b.seen = nil
	s, err := b.readAll()
	if err != nil {
		return s, err
	}
	after, err := b.generation()
	if err == nil && before == after { // what was read is of one moment
		b.seen, b.seenAt, b.seenSince = &s, after, time.Now()
	}
	return s, err
}

// fresh is for how long what was read of the table counts.
const fresh = time.Second / 2

// generation returns the number that the kernel's ruleset got with the latest
// transaction.
func (b *Backend) generation() (id uint32, err error) {
	err = b.talk("ask for the generation", func(*nftables.Conn) error {
		answers, err := b.sock.Execute(b.message(unix.NFT_MSG_GETGEN, netlink.Request))
		if err != nil {
			return err
		}
		for _, m := range answers {
			if len(m.Data) < 4 {
				continue
			}
			ad, err := netlink.NewAttributeDecoder(m.Data[4:])
			if err != nil {
				return err
			}
			ad.ByteOrder = binary.BigEndian
			for ad.Next() {
				if ad.Type() == unix.NFTA_GEN_ID {
					id = ad.Uint32()
				}
			}
			return ad.Err()
		}
		return errors.New("no answer")
	})
	return id, err
}

// readAll asks the kernel for what is in the table.
func (b *Backend) readAll() (structure, error) {
	s := structure{Chains: map[string]chainStructure{}, Kinds: map[string]setKind{}, Networks: map[string][]string{}}
	err := b.talk("read the table", func(c *nftables.Conn) error {
		var err error
		if s.Info, err = b.info(); err != nil || !s.exists() {
			return err
		}
		rules, err := b.readRules()
		if err != nil {
			return err
		}
		chains, err := c.ListChainsOfTableFamily(b.table.Family)
		if err != nil {
			return err
		}
		for _, chain := range chains {
			if chain.Table.Name != b.table.Name {
				continue
			}
			var read chainStructure
			if chain.Hooknum != nil {
				read.Base, read.Type, read.Hook = true, chain.Type, *chain.Hooknum
				if chain.Priority != nil {
					read.Priority = *chain.Priority
				}
				if chain.Policy != nil {
					read.Policy = *chain.Policy
				}
			}
			for _, rule := range rules[chain.Name] {
				read.Handles = append(read.Handles, rule.handle)
				read.Rules = append(read.Rules, rule.exprs)
			}
			s.Chains[chain.Name] = read
		}
		sets, err := c.GetSets(b.table)
		if err != nil {
			return err
		}
		for _, set := range sets {
			if set.Anonymous { // goes with its rule
				continue
			}
			s.Sets = append(s.Sets, set.Name)
			s.Kinds[set.Name] = kindOf(set)
			if !strings.HasPrefix(set.Name, allowPrefix) && !strings.HasPrefix(set.Name, exemptPrefix) {
				continue
			}
			elements, err := c.GetSetElements(set)
			if err != nil {
				return err
			}
			for _, e := range elements {
				s.Networks[set.Name] = append(s.Networks[set.Name], fmt.Sprintf("%x %x %v", e.Key, e.KeyEnd, e.IntervalEnd))
			}
			slices.Sort(s.Networks[set.Name])
		}
		slices.Sort(s.Sets)
		return nil
	})
	return s, err
}
