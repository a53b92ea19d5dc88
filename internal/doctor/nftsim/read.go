package nftsim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attributes are those of a netlink message, by type. Nested ones are parsed
// when they are asked for.
type attributes map[uint16][]byte

// parseAttributes reads attributes. What is malformed is left out.
func parseAttributes(data []byte) attributes {
	a := attributes{}
	for typ, value := range eachAttribute(data) {
		a[typ] = value
	}
	return a
}

func eachAttribute(data []byte) func(func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(data) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(data))
			typ := binary.NativeEndian.Uint16(data[2:]) & 0x3fff // without the flags nested and byte order
			if length < unix.SizeofNlAttr || length > len(data) {
				return
			}
			if !yield(typ, data[unix.SizeofNlAttr:length]) {
				return
			}
			data = data[min((length+3)&^3, len(data)):]
		}
	}
}

func (a attributes) text(typ uint16) string { return string(bytes.TrimRight(a[typ], "\x00")) }

func (a attributes) has(typ uint16) bool { _, ok := a[typ]; return ok }

// uint32 reads a number; 0 if it is not there or too short.
func (a attributes) uint32(typ uint16) uint32 {
	switch v := a[typ]; {
	case len(v) >= 4:
		return binary.BigEndian.Uint32(v)
	case len(v) == 1:
		return uint32(v[0])
	}
	return 0
}

func (a attributes) uint64(typ uint16) uint64 {
	if v := a[typ]; len(v) >= 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (a attributes) nested(typ uint16) attributes { return parseAttributes(a[typ]) }

// data reads a value: bytes, or a verdict.
func (a attributes) data(typ uint16) ([]byte, *verdict) {
	for t, value := range eachAttribute(a[typ]) {
		switch t {
		case unix.NFTA_DATA_VALUE:
			return value, nil
		case unix.NFTA_DATA_VERDICT:
			v := parseAttributes(value)
			return nil, &verdict{int32(v.uint32(unix.NFTA_VERDICT_CODE)), v.text(unix.NFTA_VERDICT_CHAIN)}
		}
	}
	return nil, nil
}

// readTries bounds how often a ruleset is read that changes meanwhile.
const readTries = 10

// Read reads the whole ruleset of the network namespace that the calling thread
// is in.
func Read() (*Ruleset, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetReadBuffer(4 << 20)
	for range readTries {
		before, err := generation(conn)
		if err != nil {
			return nil, err
		}
		r, err := read(conn)
		after, gerr := generation(conn)
		if gerr != nil {
			return nil, gerr
		}
		if before != after {
			continue // somebody wrote meanwhile
		}
		return r, err
	}
	return nil, errors.New("the ruleset changes faster than it can be read")
}

func generation(conn *netlink.Conn) (uint32, error) {
	messages, err := ask(conn, unix.NFT_MSG_GETGEN, 0, 0, nil)
	if err != nil || len(messages) == 0 {
		return 0, errors.Join(err, errWhen(len(messages) == 0, "no generation"))
	}
	return messages[0].attr.uint32(unix.NFTA_GEN_ID), nil
}

func errWhen(is bool, text string) error {
	if is {
		return errors.New(text)
	}
	return nil
}

type message struct {
	family Family
	attr   attributes
}

// ask asks nf_tables for something.
func ask(conn *netlink.Conn, typ uint16, flags netlink.HeaderFlags, family Family, attrs []byte) ([]message, error) {
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ), Flags: netlink.Request | flags},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, err
	}
	messages := make([]message, 0, len(replies))
	for _, m := range replies {
		if len(m.Data) >= 4 {
			messages = append(messages, message{Family(m.Data[0]), parseAttributes(m.Data[4:])})
		}
	}
	return messages, nil
}

func read(conn *netlink.Conn) (*Ruleset, error) {
	r := newRuleset()
	for _, part := range []struct {
		what string
		typ  uint16
		add  func(message)
	}{
		{"tables", unix.NFT_MSG_GETTABLE, r.addTable},
		{"chains", unix.NFT_MSG_GETCHAIN, r.addChain},
		{"rules", unix.NFT_MSG_GETRULE, r.addRule},
		{"sets", unix.NFT_MSG_GETSET, r.addSet},
		{"objects", unix.NFT_MSG_GETOBJ, r.addObject},
		{"flowtables", unix.NFT_MSG_GETFLOWTABLE, r.addFlowtable},
	} {
		messages, err := ask(conn, part.typ, netlink.Dump, unix.AF_UNSPEC, nil)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", part.what, err)
		}
		for _, m := range messages {
			part.add(m)
		}
	}
	for id, set := range r.Sets {
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(id.Table.Name + "\x00")},
			{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(id.Name + "\x00")},
		})
		if err != nil {
			return nil, err
		}
		messages, err := ask(conn, unix.NFT_MSG_GETSETELEM, netlink.Dump, id.Table.Family, attrs)
		if err != nil {
			return nil, fmt.Errorf("list set %s of table %s: %w", id.Name, id.Table, err)
		}
		var lists [][]byte
		for _, m := range messages {
			lists = append(lists, m.attr[unix.NFTA_SET_ELEM_LIST_ELEMENTS])
		}
		set.fill(lists)
	}
	r.finish()
	return r, nil
}

func newRuleset() *Ruleset {
	return &Ruleset{Sets: map[SetID]*Set{}, Objects: map[SetID]Object{}, chains: map[chainID]*Chain{}}
}

// followed reports whether packets of IPv4 and IPv6 pass tables of a family.
func followed(f Family) bool { return f == INet || f == IPv4 || f == IPv6 }

func (r *Ruleset) addTable(m message) {
	const dormant = 1
	if id := (TableID{m.family, m.attr.text(unix.NFTA_TABLE_NAME)}); m.attr.uint32(unix.NFTA_TABLE_FLAGS)&dormant == 0 {
		r.Tables = append(r.Tables, id)
	}
}

func (r *Ruleset) addChain(m message) {
	a := m.attr
	c := &Chain{Table: TableID{m.family, a.text(unix.NFTA_CHAIN_TABLE)}, Name: a.text(unix.NFTA_CHAIN_NAME), made: len(r.Chains)}
	if !r.HasTable(c.Table) {
		return // dormant: its chains are called by nobody
	}
	if a.has(unix.NFTA_CHAIN_HOOK) {
		hook := a.nested(unix.NFTA_CHAIN_HOOK)
		c.Base = &Base{
			Hook:     Hook(hook.uint32(unix.NFTA_HOOK_HOOKNUM)),
			Priority: int(int32(hook.uint32(unix.NFTA_HOOK_PRIORITY))),
			Type:     a.text(unix.NFTA_CHAIN_TYPE),
			Drop:     a.has(unix.NFTA_CHAIN_POLICY) && a.uint32(unix.NFTA_CHAIN_POLICY) == codeDrop,
		}
	}
	r.Chains = append(r.Chains, c)
	r.chains[chainID{c.Table, c.Name}] = c
}

func (r *Ruleset) addRule(m message) {
	a := m.attr
	c := r.chains[chainID{TableID{m.family, a.text(unix.NFTA_RULE_TABLE)}, a.text(unix.NFTA_RULE_CHAIN)}]
	if c != nil {
		c.Rules = append(c.Rules, Rule{a.uint64(unix.NFTA_RULE_HANDLE), parseExpressions(a[unix.NFTA_RULE_EXPRESSIONS])})
	}
}

func parseExpressions(list []byte) (exprs []expression) {
	for _, data := range eachAttribute(list) {
		exprs = append(exprs, parseExpression(data))
	}
	return exprs
}

func parseExpression(data []byte) expression {
	e := parseAttributes(data)
	return expression{e.text(unix.NFTA_EXPR_NAME), e.nested(unix.NFTA_EXPR_DATA)}
}

// What x/sys/unix lacks.
const (
	setDescConcat = 2
	setFieldLen   = 1
	setKeyEnd     = 10

	setElemExpressions = 11
	elemCatchAll       = 2
)

func (r *Ruleset) addSet(m message) {
	a := m.attr
	s := &Set{
		Name:     a.text(unix.NFTA_SET_NAME),
		keyLen:   int(a.uint32(unix.NFTA_SET_KEY_LEN)),
		keyType:  a.uint32(unix.NFTA_SET_KEY_TYPE),
		isMap:    a.uint32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_MAP != 0,
		dataType: a.uint32(unix.NFTA_SET_DATA_TYPE),
	}
	for _, field := range eachAttribute(a.nested(unix.NFTA_SET_DESC)[setDescConcat]) {
		s.fields = append(s.fields, int(parseAttributes(field).uint32(setFieldLen)+3)&^3)
	}
	if a.uint32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_INTERVAL == 0 || len(s.fields) > 0 {
		s.elements = []element{} // keys stand for themselves
	}
	r.Sets[SetID{TableID{m.family, a.text(unix.NFTA_SET_TABLE)}, s.Name}] = s
}

// fill takes the elements of a set as the kernel lists them.
func (s *Set) fill(lists [][]byte) {
	type read struct {
		element
		end bool
	}
	intervals := s.elements == nil
	var all []read
	for _, list := range lists {
		for _, data := range eachAttribute(list) {
			a := parseAttributes(data)
			flags := a.uint32(unix.NFTA_SET_ELEM_FLAGS)
			var e read
			e.from, _ = a.data(unix.NFTA_SET_ELEM_KEY)
			e.to = e.from
			if a.has(setKeyEnd) {
				e.to, _ = a.data(setKeyEnd)
			}
			e.any = flags&elemCatchAll != 0
			e.end = flags&unix.NFT_SET_ELEM_INTERVAL_END != 0
			if a.has(unix.NFTA_SET_ELEM_DATA) {
				e.data, e.verdict = a.data(unix.NFTA_SET_ELEM_DATA)
			}
			e.object = a.text(unix.NFTA_SET_ELEM_OBJREF)
			if a.has(unix.NFTA_SET_ELEM_EXPR) {
				e.exprs = append(e.exprs, parseExpression(a[unix.NFTA_SET_ELEM_EXPR]))
			}
			e.exprs = append(e.exprs, parseExpressions(a[setElemExpressions])...)
			if !e.any && len(e.from) == 0 || len(e.to) != len(e.from) {
				continue
			}
			all = append(all, e)
		}
	}
	if intervals {
		// Each element begins or ends a range, which lasts to the next.
		slices.SortStableFunc(all, func(a, b read) int {
			if c := bytes.Compare(a.from, b.from); c != 0 {
				return c
			}
			return rank(a.end) - rank(b.end)
		})
		for i := range all {
			if all[i].any || all[i].end {
				continue
			}
			all[i].to = bytes.Repeat([]byte{0xff}, len(all[i].from))
			if i+1 < len(all) && !all[i+1].any {
				all[i].to = before(all[i+1].from)
			}
		}
	}
	s.elements = s.elements[:0]
	for _, e := range all {
		if !e.end {
			s.elements = append(s.elements, e.element)
		}
	}
}

func rank(end bool) int {
	if end {
		return 0
	}
	return 1
}

// before returns the key in front of another.
func before(key []byte) []byte {
	key = slices.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]--
		if key[i] != 0xff {
			break
		}
	}
	return key
}

// objectKey names an object: one of each type may have the name.
func objectKey(table TableID, name string, kind uint32) SetID {
	return SetID{table, fmt.Sprintf("%d %s", kind, name)}
}

func (r *Ruleset) addObject(m message) {
	a := m.attr
	kind := a.uint32(unix.NFTA_OBJ_TYPE)
	r.Objects[objectKey(TableID{m.family, a.text(unix.NFTA_OBJ_TABLE)}, a.text(unix.NFTA_OBJ_NAME), kind)] = Object{kind, a.nested(unix.NFTA_OBJ_DATA)}
}

func (r *Ruleset) addFlowtable(m message) {
	const table, name = 1, 2 // NFTA_FLOWTABLE_*
	r.Flowtables = append(r.Flowtables, SetID{TableID{m.family, m.attr.text(table)}, m.attr.text(name)})
}

// finish notes what is not followed.
func (r *Ruleset) finish() {
	const output, postrouting = 3, 4
	for _, c := range r.Chains {
		if c.Base == nil || len(c.Rules) == 0 && !c.Base.Drop || c.Table.Family == 3 {
			continue
		}
		if !followed(c.Table.Family) || c.Base.Hook > postrouting {
			r.NotFollowed = append(r.NotFollowed, c.String())
		}
	}
}
