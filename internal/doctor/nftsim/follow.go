package nftsim

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// A Packet comes in from outside.
type Packet struct {
	From, To   netip.Addr
	Protocol   uint8  // unix.IPPROTO_TCP or unix.IPPROTO_UDP
	Port       uint16 // where it goes to
	SourcePort uint16 // 0: not known
	In         Interface
	Conn       *Conn // nil: it begins a connection
}

// A Conn is the connection that a packet belongs to, as conntrack has it.
type Conn struct {
	Established bool // false: new
	Reply       bool // the packet goes against the connection's direction
	Mark        uint32
	Labels      []int
	DNAT        bool
	Flags       uint8 // of TCP, of the packet; 0: SYN
}

// Options say what is known beside the ruleset.
type Options struct {
	Host Host
	// Assume says of sets whether they hold what is looked up in them.
	Assume map[SetID]bool
	// Watch are bits of the packet's mark: the rule that clears one is noted.
	Watch uint32
	// WithoutNAT leaves out all chains of type nat.
	WithoutNAT bool
}

// Verdict is what becomes of a packet.
type Verdict int

// What can become of a packet.
const (
	Accepted Verdict = iota
	Dropped
	Rejected // dropped, with an answer
	Unknown  // cannot be told
)

func (v Verdict) String() string { return [...]string{"accepted", "dropped", "rejected", "unknown"}[v] }

// An Outcome is what becomes of a packet, and by what.
type Outcome struct {
	Verdict Verdict
	// By is the rule or policy that decides; nil: none stands against the packet.
	By *Place
	// Hook is where it is decided.
	Hook Hook
	// To is where an accepted packet ends up. Its address or port is invalid or
	// 0 if it is not known.
	To        netip.AddrPort
	Delivered bool   // to this host itself, not sent on
	Mark      uint32 // in the end, of the bits MarkKnown
	MarkKnown uint32
	DNAT      *Place // what changed where the packet goes
	TProxy    *Place // what hands it to another socket, at
	TProxyTo  uint16
	Untracked *Place // what keeps it from conntrack
	Unmarked  *Place // what cleared a bit of Options.Watch
	// The outcome is the same for packets that differ only in their port, if that is from
	// First to Last.
	First, Last uint16
	// Addresses are those that a rule asked the destination for.
	Addresses []netip.Addr
}

// same reports whether two ways of a packet end alike.
func (o *Outcome) same(other *Outcome) bool {
	if o.Verdict != other.Verdict {
		return false
	}
	return o.Verdict != Accepted || o.To == other.To && o.Delivered == other.Delivered && o.TProxyTo == other.TProxyTo
}

// budget bounds how many conditions are followed both ways for one packet.
const budget = 2000

// maxSteps bounds the expressions that are carried out for one packet.
const maxSteps = 500_000

// walker holds what all ways of one packet share.
type walker struct {
	*Ruleset
	Options
	packet      Packet
	order       order
	family      Family
	budget      int
	steps       int
	first, last uint16
	addresses   map[netip.Addr]bool
}

// walk is a place on one way of a packet.
type walk struct {
	*walker
	hook   Hook
	todo   []step
	nats   []*Chain // chains of type nat still to run in this step
	frames []frame
	base   *Chain
	inNAT  bool
	regs   [64]cell

	to        netip.Addr // invalid: not known
	from      netip.Addr
	port      [2]cell
	begunTo   netip.Addr // and the port: where the connection began to, as conntrack has it
	begunPort [2]cell
	mark      [4]cell
	ctMark    [4]cell
	labels    [16]cell
	tracked   tracking
	natDone   bool // by a rule: no other chain of type nat sees the packet
	dnat      *Place
	tproxy    *Place
	tproxyTo  uint16
	untracked *Place
	unmarked  *Place
	changes   []change
}

type tracking int

const (
	notYet tracking = iota
	tracked
	never
)

type frame struct {
	chain *Chain
	next  int
}

// change is what a rule did to a set.
type change struct {
	set   SetID
	key   []cell
	gone  bool
	exprs []expression // of the element that was added
}

// Follow returns what becomes of a packet. Of chains of one priority in two
// tables nobody can tell which was registered first, so several orders are
// followed where there are such chains, and the verdict is Unknown if they end
// differently.
func (r *Ruleset) Follow(p Packet, o Options) Outcome {
	orders := r.orders()
	out := r.follow(p, o, orders[0])
	for _, order := range orders[1:] {
		other := r.follow(p, o, order)
		out.merge(&other)
	}
	return out
}

// merge takes into account what becomes of the packet in another order.
func (o *Outcome) merge(other *Outcome) {
	if o.Verdict != Unknown && (other.Verdict == Unknown || !o.same(other)) {
		for _, by := range []*Place{other.By, other.DNAT, o.DNAT, other.TProxy, o.TProxy} {
			if o.By == nil || other.Verdict == Unknown && by == other.By && by != nil {
				o.By = by
			}
		}
		o.Verdict, o.To, o.Delivered = Unknown, netip.AddrPort{}, false
	}
	if o.Unmarked == nil {
		o.Unmarked = other.Unmarked
	}
	if o.Untracked == nil {
		o.Untracked = other.Untracked
	}
	o.MarkKnown &= other.MarkKnown &^ (o.Mark ^ other.Mark)
	o.Mark &= o.MarkKnown
	o.First, o.Last = max(o.First, other.First), min(o.Last, other.Last)
}

func (r *Ruleset) follow(p Packet, o Options, order order) Outcome {
	w := &walker{Ruleset: r, Options: o, packet: p, order: order, budget: budget, last: 0xffff, addresses: map[netip.Addr]bool{}}
	w.family = IPv6
	if p.To.Is4() {
		w.family = IPv4
	}
	s := &walk{walker: w, to: p.To, from: p.From}
	s.port = [2]cell{{byte(p.Port >> 8), 0xff, portHigh}, {byte(p.Port), 0xff, portLow}}
	for i := range s.mark {
		s.mark[i] = known(0)
		s.ctMark[i] = known(0)
	}
	for i := range s.labels {
		s.labels[i] = known(0)
	}
	if c := p.Conn; c != nil {
		copy(s.ctMark[:], knownBytes(binary.NativeEndian.AppendUint32(nil, c.Mark)))
		for _, l := range c.Labels {
			if l >= 0 && l < 128 {
				s.labels[l/8].value |= 1 << (l % 8)
			}
		}
		s.natDone = true // chains of type nat see the first packet alone
	}
	out := s.enter(Prerouting)
	out.First, out.Last = w.first, w.last
	for a := range w.addresses {
		out.Addresses = append(out.Addresses, a)
	}
	slices.SortFunc(out.Addresses, netip.Addr.Compare)
	return out
}

// end returns what the way ends in.
func (s *walk) end(v Verdict, by *Place) Outcome {
	o := Outcome{Verdict: v, By: by, Hook: s.hook, DNAT: s.dnat, TProxy: s.tproxy, TProxyTo: s.tproxyTo, Untracked: s.untracked, Unmarked: s.unmarked}
	if v == Accepted {
		o.Delivered = s.hook == Input
		port := uint16(0)
		if data, ok := bytesOf(s.port[:]); ok {
			port = binary.BigEndian.Uint16(data)
		}
		o.To = netip.AddrPortFrom(s.to, port)
	}
	o.Mark, o.MarkKnown = numberOf(s.mark[:])
	return o
}

// enter goes to a hook.
func (s *walk) enter(hook Hook) Outcome {
	s.hook = hook
	s.todo = s.at(hook, s.family, s.order)
	return s.next()
}

// next goes to the next base chain, or hook.
func (s *walk) next() Outcome {
	for {
		if len(s.nats) > 0 && !s.natDone && s.tracked == tracked {
			s.begin(s.nats[0], true)
			s.nats = s.nats[1:]
			return s.run()
		}
		s.nats = nil
		if len(s.todo) == 0 {
			break
		}
		var now step
		now, s.todo = s.todo[0], s.todo[1:]
		switch {
		case now.track && s.tracked == notYet:
			s.tracked = tracked
			s.begunTo, s.begunPort = s.to, s.port
		case now.nat != nil && !s.WithoutNAT:
			s.nats = now.nat
		case now.chain != nil:
			s.begin(now.chain, false)
			return s.run()
		}
	}
	if s.hook != Prerouting {
		return s.end(Accepted, nil)
	}
	if !s.to.IsValid() { // a redirect to an address of this host
		return s.enter(Input)
	}
	if s.Host.delivers(s.to) {
		return s.enter(Input)
	}
	return s.enter(Forward)
}

func (s *walk) begin(c *Chain, nat bool) {
	s.base, s.inNAT = c, nat
	s.frames = []frame{{c, 0}}
}

// run follows rules until the packet has left the base chain.
func (s *walk) run() Outcome {
	for len(s.frames) > 0 {
		top := &s.frames[len(s.frames)-1]
		if top.next >= len(top.chain.Rules) {
			s.frames = s.frames[:len(s.frames)-1]
			continue
		}
		at := &Place{s.Ruleset, top.chain, top.next}
		top.next++
		s.regs = [64]cell{}
		if out, done := s.rule(at, 0); done {
			return out
		}
	}
	if s.base.Base.Drop {
		return s.end(Dropped, &Place{s.Ruleset, s.base, -1})
	}
	return s.next()
}

// result is what an expression comes to.
type result struct {
	answer  answer
	verdict *verdict // decides, if the answer is yes
	// ways are other outcomes, if the answer is maybe; none: the rule's next
	// expression, or its end.
	ways []func(*walk) result
	end  *Outcome
}

var (
	holds   = result{answer: yes}
	fails   = result{answer: no}
	unclear = result{answer: maybe}
)

func when(is bool) result {
	if is {
		return holds
	}
	return fails
}

// rule carries out a rule from one of its expressions on. It returns done if
// what becomes of the packet is decided.
func (s *walk) rule(at *Place, from int) (Outcome, bool) {
	exprs := at.Chain.Rules[at.Index].exprs
	for i := from; i < len(exprs); i++ {
		if s.steps++; s.steps > maxSteps {
			return s.end(Unknown, at), true
		}
		res := s.carryOut(at, exprs[i])
		if out, done, goOn := s.take(at, res, i+1); !goOn {
			return out, done
		}
	}
	return Outcome{}, false
}

// take acts on a result. goOn: with the next expression of the rule.
func (s *walk) take(at *Place, res result, next int) (out Outcome, done, goOn bool) {
	switch {
	case res.end != nil:
		return *res.end, true, false
	case res.answer == no:
		return Outcome{}, false, false
	case res.answer == maybe:
		return s.both(at, res, next), true, false
	case res.verdict != nil:
		out, done = s.decide(at, *res.verdict)
		return out, done, false
	}
	return Outcome{}, false, true
}

// both follows a packet that meets a condition, and one that does not.
func (s *walk) both(at *Place, res result, next int) Outcome {
	ways := res.ways
	if ways == nil {
		ways = []func(*walk) result{
			func(*walk) result { return holds },
			func(*walk) result { return fails },
		}
	}
	var first *Outcome
	for _, way := range ways {
		if s.budget--; s.budget < 0 {
			return s.end(Unknown, at)
		}
		branch := s.copied()
		out, done, goOn := branch.take(at, way(branch), next)
		if goOn {
			out, done = branch.rule(at, next)
		}
		if !done {
			out = branch.run()
		}
		switch {
		case out.Verdict == Unknown:
			return out
		case first == nil:
			first = &out
		case !first.same(&out):
			return s.end(Unknown, at)
		}
		first.MarkKnown &= out.MarkKnown &^ (first.Mark ^ out.Mark)
		first.Mark &= first.MarkKnown
		if first.Unmarked == nil {
			first.Unmarked = out.Unmarked
		}
		if first.Untracked == nil {
			first.Untracked = out.Untracked
		}
	}
	return *first
}

func (s *walk) copied() *walk {
	c := *s
	c.frames = slices.Clone(s.frames)
	c.changes = slices.Clip(s.changes)
	return &c
}

// maxDepth is how deep chains may jump, in the kernel too.
const maxDepth = 16

// decide carries out a verdict.
func (s *walk) decide(at *Place, v verdict) (Outcome, bool) {
	switch v.code {
	case codeAccept:
		return s.next(), true
	case codeDrop:
		return s.end(Dropped, at), true
	case codeReturn:
		s.frames = s.frames[:len(s.frames)-1]
		return Outcome{}, false
	case codeContinue, codeBreak:
		return Outcome{}, false
	case codeJump, codeGoto:
		to := s.Chain(s.base.Table, v.chain)
		if to == nil || len(s.frames) > maxDepth {
			return s.end(Unknown, at), true
		}
		if v.code == codeGoto {
			s.frames = s.frames[:len(s.frames)-1]
		}
		s.frames = append(slices.Clone(s.frames), frame{to, 0})
		return Outcome{}, false
	}
	return s.end(Unknown, at), true // queue: another program decides
}

// setMark changes the packet's mark.
func (s *walk) setMark(at *Place, mark []cell) {
	was, _ := numberOf(s.mark[:])
	copy(s.mark[:], mark)
	is, bits := numberOf(s.mark[:])
	if lost := was & s.Watch &^ (is & bits); lost != 0 {
		s.unmarked = at
	} else if s.Watch != 0 && is&s.Watch == s.Watch {
		s.unmarked = nil
	}
}

func sameCells(a, b []cell) bool {
	x, ok1 := bytesOf(a)
	y, ok2 := bytesOf(b)
	return ok1 && ok2 && string(x) == string(y)
}

// sendTo changes where the packet goes. What is not said (an invalid address, no
// port) is that of the connection.
func (s *walk) sendTo(at *Place, to netip.Addr, port []cell) {
	s.natDone = true
	if port == nil {
		port = s.begunPort[:]
	}
	if to == s.begunTo && to.IsValid() && sameCells(port, s.begunPort[:]) {
		return // nothing changes, and the connection is none with DNAT
	}
	s.dnat = at
	s.to = to
	copy(s.port[:], port)
}

// redirect sends the packet to this host itself.
func (s *walk) redirect(at *Place, port []cell) {
	var to netip.Addr
	n := 0
	for _, a := range s.packet.In.Addresses {
		if a.Is4() == (s.family == IPv4) && !a.IsLinkLocalUnicast() {
			if n++; n == 1 {
				to = a
			}
		}
	}
	if n != 1 && !(s.family == IPv4 && n > 0) {
		to = netip.Addr{}
	}
	s.sendTo(at, to, port)
}

// cut notes that the packet's port was compared with a range: it fares the same
// only on its own side of it.
func (w *walker) cut(from, to uint16) {
	p := w.packet.Port
	switch {
	case p < from:
		w.last = min(w.last, from-1)
	case p > to:
		w.first = max(w.first, to+1)
	default:
		w.first, w.last = max(w.first, from), min(w.last, to)
	}
}

// pin notes that the port was looked at in a way that no range tells.
func (w *walker) pin() { w.cut(w.packet.Port, w.packet.Port) }

// asked notes that the destination was compared with an address.
func (w *walker) asked(address []byte) {
	const most = 10_000
	if a, ok := netip.AddrFromSlice(address); ok && len(w.addresses) < most {
		w.addresses[a] = true
	}
}

// isTCP reports the packet's protocol.
func (w *walker) isTCP() bool { return w.packet.Protocol == unix.IPPROTO_TCP }
