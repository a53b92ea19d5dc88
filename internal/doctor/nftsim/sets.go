package nftsim

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// maxWays bounds how many values of a map are followed for one key that is not
// wholly known.
const maxWays = 16

// lookup looks a key up in a set, or loads its value from a map.
func (s *walk) lookup(a attributes) result {
	table := s.base.Table
	id := SetID{table, a.text(unix.NFTA_LOOKUP_SET)}
	set := s.Sets[id]
	if set == nil {
		return unclear
	}
	invert := a.uint32(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0
	to, isMap := a.uint32(unix.NFTA_LOOKUP_DREG), a.has(unix.NFTA_LOOKUP_DREG)
	key := s.load(a.uint32(unix.NFTA_LOOKUP_SREG), set.keyLen)
	found, answer := s.find(table, set, key)
	if !isMap {
		return result{answer: answer}.not(invert)
	}
	give := func(e element) result {
		if to == unix.NFT_REG_VERDICT {
			if e.verdict == nil {
				return unclear
			}
			return result{answer: yes, verdict: e.verdict}
		}
		return holds
	}
	if answer == no {
		return fails
	}
	if len(found) == 0 {
		s.forget(to, 16)
		return unclear
	}
	if answer == yes && len(found) == 1 {
		if to != unix.NFT_REG_VERDICT {
			s.store(to, knownBytes(found[0].data))
		}
		return give(found[0])
	}
	// One of several, or none.
	ways := []func(*walk) result{}
	if answer != yes {
		ways = append(ways, func(*walk) result { return fails })
	}
	var seen []element
next:
	for _, e := range found {
		for _, other := range seen {
			if bytes.Equal(e.data, other.data) && (e.verdict == other.verdict || e.verdict != nil && other.verdict != nil && *e.verdict == *other.verdict) {
				continue next
			}
		}
		seen = append(seen, e)
		ways = append(ways, func(w *walk) result {
			if to != unix.NFT_REG_VERDICT {
				w.store(to, knownBytes(e.data))
			}
			return give(e)
		})
	}
	if len(ways) > maxWays {
		s.forget(to, 16)
		if to == unix.NFT_REG_VERDICT {
			return result{answer: maybe, ways: []func(*walk) result{func(w *walk) result {
				out := w.end(Unknown, &Place{w.Ruleset, w.frames[len(w.frames)-1].chain, w.frames[len(w.frames)-1].next - 1})
				return result{end: &out}
			}}}
		}
		return unclear
	}
	return result{answer: maybe, ways: ways}
}

// find returns the elements that a key is in, or may be in.
func (s *walk) find(table TableID, set *Set, key []cell) ([]element, answer) {
	id := SetID{table, set.Name}
	if holds, ok := s.Assume[id]; ok {
		if !holds {
			return nil, no
		}
		if !set.isMap {
			return nil, yes
		}
		if len(set.elements) == 0 {
			return nil, maybe
		}
		return set.elements, yes
	}
	for i := len(s.changes) - 1; i >= 0; i-- {
		c := s.changes[i]
		if c.set != id || len(c.key) != len(key) {
			continue
		}
		data, ok := bytesOf(c.key)
		switch a := equal(key, data); {
		case !ok, a == maybe:
			return nil, maybe
		case a == yes && c.gone:
			return nil, no
		case a == yes && !set.isMap:
			return nil, s.carryOutAll(c.exprs)
		case a == yes:
			return nil, maybe
		}
	}
	var possible []element
	var other *element
	for i := range set.elements {
		e := &set.elements[i]
		if e.any {
			other = e
			continue
		}
		switch s.inside(set, *e, key) {
		case yes:
			// Ports beside this one are told apart by the elements not looked at.
			s.mindAll(set, key)
			if a := s.carryOutAll(e.exprs); a != yes {
				return nil, a
			}
			return []element{*e}, yes
		case maybe:
			possible = append(possible, *e)
		}
	}
	s.mindAll(set, key)
	switch {
	case len(possible) == 0 && other == nil:
		return nil, no
	case len(possible) == 0:
		return []element{*other}, yes
	case other != nil:
		return append(possible, *other), yes
	}
	return possible, maybe
}

// mindAll notes what all elements of a set ask of the port and the destination.
func (s *walk) mindAll(set *Set, key []cell) {
	cares := false
	for _, c := range key {
		cares = cares || c.from != elsewhere
	}
	if !cares {
		return
	}
	for _, e := range set.elements {
		if e.any {
			continue
		}
		for from, to := range set.parts(len(key)) {
			if to > len(e.from) || to > len(e.to) {
				continue
			}
			s.ports(key[from:to], e.from[from:to], e.to[from:to])
			s.destination(key[from:to], e.from[from:to])
		}
	}
}

// parts are the fields of a key.
func (s *Set) parts(length int) func(func(int, int) bool) {
	return func(yield func(int, int) bool) {
		if len(s.fields) == 0 {
			yield(0, length)
			return
		}
		at := 0
		for _, f := range s.fields {
			if f <= 0 || at+f > length || !yield(at, at+f) {
				return
			}
			at += f
		}
		if at < length {
			yield(at, length)
		}
	}
}

// inside answers whether a key is in an element.
func (s *walk) inside(set *Set, e element, key []cell) answer {
	if len(e.from) > len(key) || len(e.to) != len(e.from) {
		return no
	}
	key = key[:len(e.from)]
	a := yes
	for from, to := range set.parts(len(key)) {
		switch within(key[from:to], e.from[from:to], e.to[from:to]) {
		case no:
			return no
		case maybe:
			a = maybe
		}
	}
	return a
}

// dynset adds to a set, or takes from it.
func (s *walk) dynset(at *Place, a attributes) result {
	const opDelete, flagInvert = 2, 1
	id := SetID{at.Chain.Table, a.text(unix.NFTA_DYNSET_SET_NAME)}
	set := s.Sets[id]
	if set == nil {
		return unclear
	}
	key := s.load(a.uint32(unix.NFTA_DYNSET_SREG_KEY), set.keyLen)
	gone := a.uint32(unix.NFTA_DYNSET_OP) == opDelete
	if gone {
		s.changes = append(s.changes, change{id, key, true, nil})
		return holds
	}
	var inner []expression
	if a.has(unix.NFTA_DYNSET_EXPR) {
		inner = append(inner, parseExpression(a[unix.NFTA_DYNSET_EXPR]))
	}
	inner = append(inner, parseExpressions(a[dynsetExpressions])...)
	if there, ok := s.exprsOf(id, set, key); ok {
		inner = there // an element that is there keeps its own
	}
	s.changes = append(s.changes, change{id, key, false, inner})
	if a := s.carryOutAll(inner); a != yes {
		return result{answer: a}
	}
	return when(a.uint32(unix.NFTA_DYNSET_FLAGS)&flagInvert == 0)
}

// carryOutAll carries out the expressions of an element.
func (s *walk) carryOutAll(exprs []expression) answer {
	for _, e := range exprs {
		switch e.name {
		case "limit", "counter", "quota", "connlimit", "last":
			if r := s.carryOut(nil, e); r.answer != yes {
				return r.answer
			}
		default:
			return maybe
		}
	}
	return yes
}

// exprsOf returns the expressions of an element that is in a set already.
func (s *walk) exprsOf(id SetID, set *Set, key []cell) ([]expression, bool) {
	data, known := bytesOf(key)
	if !known {
		return nil, false
	}
	for i := len(s.changes) - 1; i >= 0; i-- {
		if c := s.changes[i]; c.set == id && equal(c.key, data) == yes {
			return c.exprs, !c.gone
		}
	}
	for _, e := range set.elements {
		if !e.any && s.inside(set, e, key) == yes {
			return e.exprs, true
		}
	}
	return nil, false
}
