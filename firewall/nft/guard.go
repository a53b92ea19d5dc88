package nft

import (
	"context"
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
	diag "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	err = b.put(g, grants, before, false)
	if errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) {
		// What is there cannot become what is wanted: another program's or
		// version's table of that name. Its grants are kept.
		b.log.Warn("nftables: the table is not of this version, it is made anew", "table", b.table.Name, "error", err)
		err = b.put(g, grants, before, true)
	}
	if err != nil && !errors.Is(err, syscall.ENOBUFS) {
		return err
	}
	there, readErr := b.read()
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if want := wanted(g); !maps.Equal(there.rules(), want) {
		return errors.Join(err, fmt.Errorf("nftables: table %s is not as it was written", b.table.Name))
	}
	b.guard, b.there = &g, there
	return nil
}

// put writes the whole table in one transaction.
func (b *Backend) put(g firewall.Guard, grants []firewall.Grant, before structure, rebuild bool) error {
	running, err := b.running(g, before)
	if err != nil {
		return err
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
	sessions, err := sessions(g)
	if err != nil {
		b.log.Warn("nftables: sessions that are up cannot be listed; those that conntrack does not know will hang", "error", err)
	}
	return b.talk("guard the doors", func(c *nftables.Conn) error {
		c.AddTable(b.table)
		if rebuild {
			c.DelTable(b.table)
			c.AddTable(b.table)
			before = structure{}
		}
		var failed error
		for _, f := range families {
			set := b.beforeSet(f)
			failed = errors.Join(failed, c.AddSet(set, nil))
			if !before.table {
				for part := range slices.Chunk(sessions[f.isIPv4], chunk) {
					failed = errors.Join(failed, c.SetAddElements(set, part))
				}
			}
		}
		guard := c.AddChain(b.chain(guardChain))
		c.FlushChain(guard)
		for _, door := range g.Doors {
			for _, f := range families {
				failed = errors.Join(failed, c.AddSet(b.grantSet(door.Name, f), nil))
			}
			chain := c.AddChain(b.chain(chainPrefix + door.Name))
			c.FlushChain(chain)
			for _, exprs := range b.doorRules(door, g.Mark) {
				c.AddRule(&nftables.Rule{Table: b.table, Chain: chain, Exprs: exprs})
			}
		}
		ports, elements := b.portMap(g)
		failed = errors.Join(failed, c.AddSet(ports, elements))
		for _, exprs := range guardRules(ports) {
			c.AddRule(&nftables.Rule{Table: b.table, Chain: guard, Exprs: exprs})
		}
		want := wanted(g)
		for name := range before.Chains {
			if _, ok := want[name]; !ok {
				c.FlushChain(b.chain(name))
				c.DelChain(b.chain(name))
			}
		}
		for _, name := range before.Sets {
			if !isSetOf(g, name) {
				c.DelSet(&nftables.Set{Table: b.table, Name: name})
			}
		}
		failed = errors.Join(failed, b.queue(c, restore, time.Now()))
		return errors.Join(failed, c.Flush())
	})
}

func hasDoor(g firewall.Guard, name string) bool {
	return slices.ContainsFunc(g.Doors, func(d firewall.Door) bool { return d.Name == name })
}

// wanted returns the names of the chains of a guard, with how many rules each
// has.
func wanted(g firewall.Guard) map[string]int {
	var b Backend
	chains := map[string]int{guardChain: len(guardRules(new(nftables.Set)))}
	for _, door := range g.Doors {
		chains[chainPrefix+door.Name] = len(b.doorRules(door, g.Mark))
	}
	return chains
}

func isSetOf(g firewall.Guard, name string) bool {
	for _, f := range families {
		if door, ok := strings.CutSuffix(name, f.suffix); ok && (door == reservedDoor || hasDoor(g, door)) {
			return true
		}
	}
	return false
}

type grantKey struct {
	door   string
	client netip.Prefix
}

// running returns the grants that a table, as it is, holds for doors of g.
func (b *Backend) running(g firewall.Guard, there structure) (map[grantKey]firewall.Grant, error) {
	running := map[grantKey]firewall.Grant{}
	if !there.table {
		return running, nil
	}
	err := b.talk("read grants", func(c *nftables.Conn) error {
		for _, door := range g.Doors {
			for _, f := range families {
				if !slices.Contains(there.Sets, door.Name+f.suffix) {
					continue
				}
				elements, err := c.GetSetElements(b.grantSet(door.Name, f))
				if err != nil {
					return err
				}
				now := time.Now()
				for _, e := range elements {
					if grant, ok := grantOf(door.Name, e, now); ok {
						running[grantKey{door.Name, grant.Client}] = grant
					}
				}
			}
		}
		return nil
	})
	return running, err
}

// Unguard implements firewall.Backend.
func (b *Backend) Unguard(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.guard, b.there = nil, structure{}
	return b.talk("remove the table", func(c *nftables.Conn) error {
		c.AddTable(b.table) // so that deleting it does not fail
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
	if !reflect.DeepEqual(there, b.there) {
		return fmt.Errorf("table %s: %w", b.table.Name, firewall.ErrNotGuarded)
	}
	return nil
}

// structure is the table as the kernel has it, grants and counts apart.
type structure struct {
	table  bool // is there
	Flags  uint32
	Chains map[string]chainStructure
	Sets   []string
}

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
		tables, err := c.ListTablesOfFamily(b.table.Family)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == b.table.Name })
		if i < 0 {
			return nil
		}
		s.table, s.Flags = true, tables[i].Flags
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

// sessions returns the TCP sessions to guarded ports that are up, by family,
// as elements of the sets of sessions from before the guard: conntrack may not
// have been active yet when they began.
func sessions(g firewall.Guard) (map[bool][]nftables.SetElement, error) {
	found := map[bool][]nftables.SetElement{}
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := diag.SocketDiagTCP(f)
		if err != nil {
			return found, err
		}
		for _, s := range sockets {
			const established = 1 // tcp(7)
			if s.State != established || !guarded(g, s.ID.SourcePort) {
				continue
			}
			client, ok1 := netip.AddrFromSlice(s.ID.Destination)
			ours, ok2 := netip.AddrFromSlice(s.ID.Source)
			if !ok1 || !ok2 {
				continue
			}
			client, ours = client.Unmap(), ours.Unmap()
			key := slices.Concat(client.AsSlice(), port(s.ID.DestinationPort), []byte{0, 0}, ours.AsSlice(), port(s.ID.SourcePort), []byte{0, 0})
			found[client.Is4()] = append(found[client.Is4()], nftables.SetElement{Key: key})
		}
	}
	return found, nil
}

func guarded(g firewall.Guard, p uint16) bool {
	for _, door := range g.Doors {
		for _, ports := range door.Ports {
			if ports.Protocol == firewall.TCP && ports.First <= p && p <= ports.Last {
				return true
			}
		}
	}
	return false
}
