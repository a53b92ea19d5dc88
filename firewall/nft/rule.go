package nft

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// A part is a piece of a rule in both languages: as text for nft(8) and as expressions for
// netlink.
type part struct {
	text  string
	exprs []expr.Any
}

// A rule is a sequence of parts.
type rule []part

func (r rule) exprs() (exprs []expr.Any) {
	for _, p := range r {
		exprs = append(exprs, p.exprs...)
	}
	return exprs
}

func (r rule) String() string {
	var words []string
	for _, p := range r {
		if p.text != "" {
			words = append(words, p.text)
		}
	}
	return strings.Join(words, " ")
}

var (
	accept  = verdict("accept", expr.VerdictAccept)
	drop    = verdict("drop", expr.VerdictDrop)
	goBack  = verdict("return", expr.VerdictReturn)
	counted = part{"counter", []expr.Any{&expr.Counter{}}}
	reset   = part{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}

	loopback = part{`iifname "lo"`, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...)},
	}}
	// toThisHost matches what the routing table "local" delivers to this host. It knows no
	// other routing table.
	toThisHost = part{"fib daddr type local", []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}}
	isTCP  = part{"meta l4proto tcp", protocol(expr.CmpOpEq, firewall.TCP)}
	isUDP  = part{"meta l4proto udp", protocol(expr.CmpOpEq, firewall.UDP)}
	notTCP = part{"meta l4proto != tcp", protocol(expr.CmpOpNeq, firewall.TCP)}
	// noNewTCP matches all TCP packets except those that begin a connection: a SYN
	// without an ACK.
	noNewTCP = part{"tcp flags & (syn | ack) != syn", append(protocol(expr.CmpOpEq, firewall.TCP),
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpSYN | tcpACK}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{tcpSYN}},
	)}
	isReply = part{"ct direction reply", []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}}
	isNew         = part{"ct state new", anyOf(expr.CtKeySTATE, expr.CtStateBitNEW)}
	isEstablished = part{"ct state established", anyOf(expr.CtKeySTATE, expr.CtStateBitESTABLISHED)}
	isDNATed      = part{"ct status dnat", anyOf(expr.CtKeySTATUS, statusDNAT)}

	// The label of connections that a grant let in.
	setLabel, hasLabel = labelled(label)
	// The label of connections that this host opened from a guarded port.
	setBegun, hasBegun = labelled(begunHere)
)

// labelled returns a part that sets label n on a connection, and one that matches
// connections with that label.
func labelled(n int) (set, has part) {
	set = part{fmt.Sprintf("ct label set %d", n), []expr.Any{
		&expr.Immediate{Register: 1, Data: labelBit(n)},
		&expr.Ct{Key: expr.CtKeyLABELS, SourceRegister: true, Register: 1},
	}}
	has = part{fmt.Sprintf("ct label %d", n), []expr.Any{
		&expr.Ct{Key: expr.CtKeyLABELS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: labelSize, Mask: labelBit(n), Xor: make([]byte, labelSize)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, labelSize)},
	}}
	return set, has
}

const (
	tcpSYN, tcpACK = 0x02, 0x10
	statusDNAT     = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	label          = 127    // the highest label that a connection can have
	begunHere      = 126
	labelSize      = 16 // bytes of all labels
)

// labelBit returns all labels of a connection, as the kernel stores them, with only label n
// set.
func labelBit(n int) []byte {
	bits := make([]byte, labelSize)
	binary.NativeEndian.PutUint32(bits[n/32*4:], 1<<(n%32))
	return bits
}

func verdict(text string, kind expr.VerdictKind) part {
	return part{text, []expr.Any{&expr.Verdict{Kind: kind}}}
}

func goTo(chain string) part {
	return part{"goto " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}}
}

func jump(chain string) part {
	return part{"jump " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}

func protocol(op expr.CmpOp, p firewall.Protocol) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{byte(p)}},
	}
}

// anyOf matches connections with one of the given bits.
func anyOf(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// toPorts matches packets to ports.
func toPorts(p firewall.Ports) part {
	return part{
		fmt.Sprintf("%s dport %s", p.Protocol, portRange(p)),
		slices.Concat(protocol(expr.CmpOpEq, p.Protocol), []expr.Any{transport(2, 1)}, within(p)),
	}
}

// fromPorts matches packets from ports.
func fromPorts(p firewall.Ports) part {
	return part{
		fmt.Sprintf("%s sport %s", p.Protocol, portRange(p)),
		slices.Concat(protocol(expr.CmpOpEq, p.Protocol), []expr.Any{transport(0, 1)}, within(p)),
	}
}

// askedForPorts matches packets of connections whose first packet was sent to ports, even
// if DNAT has redirected it.
func askedForPorts(p firewall.Ports) part {
	const original = 0
	return part{
		fmt.Sprintf("meta l4proto %s ct original proto-dst %s", p.Protocol, portRange(p)),
		slices.Concat(protocol(expr.CmpOpEq, p.Protocol), []expr.Any{&expr.Ct{Key: expr.CtKeyPROTODST, Register: 1, Direction: original}}, within(p)),
	}
}

func portRange(p firewall.Ports) string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// within compares the port in register 1 with a range.
func within(p firewall.Ports) []expr.Any {
	if p.First == p.Last {
		return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: port(p.First)}}
	}
	return []expr.Any{
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: port(p.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: port(p.Last)},
	}
}

// from matches packets whose source, masked to bits, is in a set.
func (f family) from(bits int, set string) part {
	return part{
		f.source(bits) + " @" + set,
		slices.Concat(f.is(), f.masked(bits), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set}}),
	}
}

// whole returns the number of bits of an address.
func (f family) whole() int { return int(f.size) * 8 }

// source returns the source address, masked to bits, in the language of nft(8).
func (f family) source(bits int) string {
	if bits == f.whole() {
		return f.keyword + " saddr"
	}
	return fmt.Sprintf("%s saddr & %s", f.keyword, f.maskAddr(bits))
}

// fromBefore matches packets of sessions from before the guard.
func (f family) fromBefore() part {
	set := reservedDoor + f.suffix
	words := int(f.size / 4) // a concatenated key fills consecutive 32-bit registers
	return part{
		fmt.Sprintf("%[1]s saddr . tcp sport . %[1]s daddr . tcp dport @%[2]s", f.keyword, set),
		append(f.is(),
			network(f.saddr, f.size, register(0)),
			transport(0, register(words)),
			network(f.saddr+f.size, f.size, register(words+1)),
			transport(2, register(2*words+1)),
			&expr.Lookup{SourceRegister: register(0), SetName: set}),
	}
}

// register returns the register that begins at a 32-bit word. At a boundary of 16 bytes the
// kernel reports the number of the 16-byte register, so that number is used here.
func register(word int) uint32 {
	if word%4 == 0 {
		return uint32(unix.NFT_REG_1 + word/4)
	}
	return uint32(unix.NFT_REG32_00 + word)
}

// count matches packets that come too fast from their source, masked to bits. An earlier
// part of the rule must match the family.
func (f family) count(bits int, set string, rate int, per time.Duration, burst int) part {
	unit := map[time.Duration]string{time.Second: "second", time.Minute: "minute", time.Hour: "hour", week: "week"}[per]
	over := &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTime(per / time.Second), Burst: uint32(burst), Over: true}
	return part{
		fmt.Sprintf("update @%s { %s limit rate over %d/%s burst %d packets }", set, f.source(bits), rate, unit, burst),
		append(f.masked(bits), &expr.Dynset{SrcRegKey: 1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{over}}),
	}
}

const week = 7 * 24 * time.Hour

// setMark adds the bits of mark to the mark of the packet.
func setMark(mark uint32) part {
	return part{
		fmt.Sprintf("meta mark set meta mark | 0x%08x", mark),
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(^mark), Xor: binaryutil.NativeEndian.PutUint32(mark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		},
	}
}

func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.nfproto}},
	}
}

// masked loads the source address into register 1 and masks it to bits.
func (f family) masked(bits int) []expr.Any {
	load := []expr.Any{network(f.saddr, f.size, 1)}
	if bits < f.whole() {
		load = append(load, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.size, Mask: f.maskAddr(bits).AsSlice(), Xor: make([]byte, f.size)})
	}
	return load
}

func network(offset, size, register uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size, DestRegister: register}
}

// transport loads a port: the source port at offset 0, the destination port at offset 2.
func transport(offset, register uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2, DestRegister: register}
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// sameExprs reports whether a rule read from the kernel is the one that was written. If it
// contains an unknown expression, the answer is false.
func sameExprs(read, written []expr.Any) bool {
	return slices.EqualFunc(read, written, func(a, b expr.Any) bool {
		if _, ok := a.(unknownExpr); ok {
			return false
		}
		x, errX := expr.Marshal(unix.NFPROTO_INET, a)
		y, errY := expr.Marshal(unix.NFPROTO_INET, b)
		return errX == nil && errY == nil && string(x) == string(y)
	})
}
