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
	"github.com/google/nftables/expr"

	"webknock/firewall"
)

// Guard implements firewall.Backend.
func (b *Backend) Guard(ctx context.Context, g firewall.Guard, grants []firewall.Grant) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if slices.ContainsFunc(g.Doors, func(d firewall.Door) bool { return d.Name == reservedDoor }) {
		return fmt.Errorf("a door cannot be called %s: that is the name of a set in the table", reservedDoor)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before, err := b.read()
	if err != nil {
		return err
	}
	r, err := b.ruleset(g)
	if err != nil {
		return err
	}
	err = b.put(g, r, grants, before, false)
	if errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) {
		// What is there cannot become what is wanted: another program's or
		// version's table of that name. Its grants are kept.
		b.log.Warn("nftables: the table is not of this version, it is made anew", "table", b.table.Name, "error", err)
		err = b.put(g, r, grants, before, true)
	}
	if err != nil && !errors.Is(err, syscall.ENOBUFS) {
		return err
	}
	there, readErr := b.read()
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if sets, rules := r.names(); !maps.Equal(there.rules(), rules) || !slices.Equal(there.Sets, sets) {
		return errors.Join(err, fmt.Errorf("nftables: table %s is not as it was written", b.table.Name))
	}
	b.guard, b.there = &g, there
	return nil
}

// put writes the whole table in one transaction.
func (b *Backend) put(g firewall.Guard, r *ruleset, grants []firewall.Grant, before structure, rebuild bool) error {
	rebuild = before.exists() && (rebuild || before.Info.owned() != g.Owner)
	running := map[grantKey]firewall.Grant{}
	if before.exists() {
		err := b.talk("read grants", func(c *nftables.Conn) error {
			found, err := b.elements(c, g, func(set string) bool { return slices.Contains(before.Sets, set) })
			for _, grant := range found {
				running[grantKey{grant.Door, grant.Client}] = grant
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var restore []firewall.Change
	for _, grant := range grants {
		if _, there := running[grantKey{grant.Door, grant.Client}]; !there && hasDoor(g, grant.Door) {
			restore = append(restore, firewall.Change{Grant: grant})
		}
	}
	if rebuild {
		for _, grant := range running {
			restore = append(restore, firewall.Change{Grant: grant})
		}
	}
	var up map[bool][]nftables.SetElement
	if !before.exists() || rebuild {
		var err error
		if up, err = sessionsBefore(g); err != nil {
			b.log.Warn("nftables: sessions that are up cannot be listed; those that conntrack does not know will hang", "error", err)
		}
	}
	if !before.exists() || rebuild {
		for i := range restore {
			restore[i].New = true
		}
	}
	first := restore[:min(len(restore), maxChanges)]
	err := b.talk("guard the doors", func(c *nftables.Conn) error {
		if err := b.prepare(c, g.Owner, before.Info, rebuild); err != nil {
			return err
		}
		if rebuild {
			before = structure{}
		}
		var failed error
		for _, set := range r.sets {
			failed = errors.Join(failed, c.AddSet(set, nil))
		}
		for _, f := range families {
			for part := range slices.Chunk(up[f.isIPv4], chunk) {
				failed = errors.Join(failed, c.SetAddElements(b.beforeSet(f), part))
			}
		}
		for _, f := range r.fills {
			c.FlushSet(f.set)
			for part := range slices.Chunk(f.elements, 2*chunk) {
				failed = errors.Join(failed, c.SetAddElements(f.set, part))
			}
		}
		write := func(name string, rules [][]expr.Any) {
			chain := c.AddChain(b.chain(name))
			c.FlushChain(chain)
			for _, exprs := range rules {
				c.AddRule(&nftables.Rule{Table: b.table, Chain: chain, Exprs: exprs})
			}
		}
		write(guardChain, nil) // so that nothing refers to door chains that go
		for _, chain := range r.chains {
			write(chain.name, chain.rules)
		}
		failed = errors.Join(failed, c.AddSet(r.ports, r.verdicts))
		write(guardChain, guardRules(g, r.ports)) // the map has its id only now
		sets, rules := r.names()
		for name := range before.Chains {
			if _, ok := rules[name]; !ok {
				c.FlushChain(b.chain(name))
				c.DelChain(b.chain(name))
			}
		}
		for _, name := range before.Sets {
			if !slices.Contains(sets, name) {
				c.DelSet(&nftables.Set{Table: b.table, Name: name})
			}
		}
		failed = errors.Join(failed, b.queue(c, g, first, time.Now()))
		return errors.Join(failed, c.Flush())
	})
	for part := range slices.Chunk(restore[len(first):], maxChanges) {
		if err != nil {
			break
		}
		err = b.talk("put grants back", func(c *nftables.Conn) error {
			return errors.Join(b.queue(c, g, part, time.Now()), c.Flush())
		})
	}
	return err
}

func hasDoor(g firewall.Guard, name string) bool { return g.Door(name) != nil }

type grantKey struct {
	door   string
	client netip.Prefix
}

// Unguard implements firewall.Backend.
func (b *Backend) Unguard(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.guard, b.there = nil, structure{}
	there, err := b.read()
	if err != nil || !there.exists() {
		return err
	}
	return b.talk("remove the table", func(c *nftables.Conn) error {
		if err := b.claim(there.Info); err != nil {
			return err
		}
		c.DelTable(b.table)
		return c.Flush()
	})
}

// Check implements firewall.Backend.
func (b *Backend) Check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
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
	return nil
}

// structure is the table as the kernel has it, grants and counts apart.
type structure struct {
	Info   tableInfo
	Chains map[string]chainStructure
	Sets   []string
}

// exists reports whether there is a table.
func (s structure) exists() bool { return s.Info.Handle != 0 }

type chainStructure struct {
	Base     bool
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Policy   nftables.ChainPolicy
	Handles  []uint64 // of Rules: others, if they were deleted and made again
	Rules    [][]expr.Any
}

// rules returns how many rules each chain has.
func (s structure) rules() map[string]int {
	n := map[string]int{}
	for name, c := range s.Chains {
		n[name] = len(c.Rules)
	}
	return n
}

// read returns what is in the table.
func (b *Backend) read() (structure, error) {
	s := structure{Chains: map[string]chainStructure{}}
	err := b.talk("read the table", func(c *nftables.Conn) error {
		var err error
		if s.Info, err = b.info(); err != nil || !s.exists() {
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
				read.Base, read.Hook = true, *chain.Hooknum
				if chain.Priority != nil {
					read.Priority = *chain.Priority
				}
				if chain.Policy != nil {
					read.Policy = *chain.Policy
				}
			}
			rules, err := c.GetRules(b.table, chain)
			if err != nil {
				return err
			}
			for _, rule := range rules {
				for i, e := range rule.Exprs {
					if _, ok := e.(*expr.Counter); ok {
						rule.Exprs[i] = &expr.Counter{}
					}
				}
				read.Handles = append(read.Handles, rule.Handle)
				read.Rules = append(read.Rules, rule.Exprs)
			}
			s.Chains[chain.Name] = read
		}
		sets, err := c.GetSets(b.table)
		if err != nil {
			return err
		}
		for _, set := range sets {
			if !set.Anonymous { // one that is goes with its rule
				s.Sets = append(s.Sets, set.Name)
			}
		}
		slices.Sort(s.Sets)
		return nil
	})
	return s, err
}
