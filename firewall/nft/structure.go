package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// structure is the table as the kernel has it, without grants, bans and counters.
type structure struct {
	Info   tableInfo
	Chains map[string]chainStructure
	Sets   []string // names, sorted
	Kinds  map[string]setKind
	// Networks are the elements of the sets of networks, by set.
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

// setKind describes a set without its elements.
type setKind struct {
	Type                       string
	Interval, Dynamic, Timeout bool
	After                      time.Duration // default timeout of elements
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
	Handles  []uint64 // of Rules; they change when rules are deleted and made again
	Rules    [][]expr.Any
}

// becomes reports whether the chain can be changed into c. The hook of a chain cannot be
// changed.
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

// sameRules reports whether two tables have the same rules.
func sameRules(a, b structure) bool {
	return maps.EqualFunc(a.Chains, b.Chains, func(x, y chainStructure) bool { return reflect.DeepEqual(x.Rules, y.Rules) })
}

// read returns the table. If it was just read and the generation of the ruleset is the
// same, read returns the cached structure, so that a repair does not read the table twice.
// A table that is read during a commit may be the old one although the generation is
// already the new one. So the cache is dropped when the end of a transaction is announced,
// and after a moment.
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
	if err == nil && before == after { // no transaction has ended meanwhile
		b.seen, b.seenAt, b.seenSince = &s, after, time.Now()
	}
	return s, err
}

// fresh is how long a cached structure is valid.
const fresh = time.Second / 2

// generation returns the generation id of the kernel's ruleset, which changes with each
// transaction.
func (b *Backend) generation() (id uint32, err error) {
	err = b.do("ask for the generation", func(*nftables.Conn) error {
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

// readAll reads the table from the kernel.
func (b *Backend) readAll() (structure, error) {
	s := structure{Chains: map[string]chainStructure{}, Kinds: map[string]setKind{}, Networks: map[string][]string{}}
	err := b.do("read the table", func(c *nftables.Conn) error {
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
			if set.Anonymous { // belongs to its rule
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
