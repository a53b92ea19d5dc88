package nftsim

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// made is a ruleset whose chain at a hook holds rules that are not loaded into a
// kernel, because not every one has the modules.
func made(hook Hook, rules ...[]expression) *Ruleset {
	r := newRuleset()
	table := TableID{INet, "t"}
	c := &Chain{Table: table, Name: "c", Base: &Base{Hook: hook, Priority: -150, Type: "filter"}}
	for _, exprs := range rules {
		c.Rules = append(c.Rules, Rule{exprs: exprs})
	}
	r.Tables, r.Chains = []TableID{table}, []*Chain{c}
	r.chains[chainID{table, "c"}] = c
	return r
}

var (
	drop      = expr("immediate", attr32(immediateReg, 0), verdictAttr(immediateData, codeDrop, ""))
	accept    = expr("immediate", attr32(immediateReg, 0), verdictAttr(immediateData, codeAccept, ""))
	loadDport = expr("payload", attr32(unix.NFTA_PAYLOAD_DREG, 1), attr32(unix.NFTA_PAYLOAD_BASE, 2), attr32(unix.NFTA_PAYLOAD_OFFSET, 2), attr32(unix.NFTA_PAYLOAD_LEN, 2))
)

func port2(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

func TestExpressionsThatNeedModules(t *testing.T) {
	xt := func(kind, name string, revision uint32, info []byte) expression {
		return expr(kind, attr(1, []byte(name+"\x00")), attr32(2, revision), attr(3, info))
	}
	tproxy := expr("tproxy", attr32(tproxyFamily, 0), attr32(tproxyPort, 1))
	to22 := expr("immediate", attr32(immediateReg, 1), value(immediateData, port2(22)))
	tproxyInfo := make([]byte, 28)
	copy(tproxyInfo[24:], port2(22))
	for _, c := range []struct {
		name  string
		hook  Hook
		exprs []expression
		want  Verdict
		text  string
	}{
		{"queue", Input, []expression{expr("queue", attr(unix.NFTA_QUEUE_NUM, port2(1)))}, Unknown, "queue to 1"},
		{"tproxy", Prerouting, []expression{to22, tproxy, accept}, Accepted, "tproxy to :22 accept"},
		{"TPROXY", Prerouting, []expression{xt("target", "TPROXY", 1, tproxyInfo)}, Accepted, "TPROXY to :22"},
		{"flow add", Forward, []expression{expr("flow_offload", attr(1, []byte("fast\x00"))), drop}, Accepted, "flow add @fast drop"},
		{"synproxy", Input, []expression{expr("synproxy")}, Unknown, "synproxy"},
		{"NFQUEUE", Input, []expression{xt("target", "NFQUEUE", 0, nil)}, Unknown, "NFQUEUE"},
		{"an expression of the future", Input, []expression{expr("crystal"), drop}, Unknown, "crystal drop"},
		{"a match of the future", Input, []expression{xt("match", "crystal", 0, nil), drop}, Unknown, "crystal drop"},
		{"ipset", Input, []expression{xt("match", "set", 4, make([]byte, 16)), drop}, Unknown, "set drop"},
		{"a jump to nowhere", Input, []expression{expr("immediate", attr32(immediateReg, 0), verdictAttr(immediateData, codeJump, "gone"))}, Unknown, "jump gone"},
		{"REJECT", Input, []expression{xt("target", "REJECT", 0, make([]byte, 4))}, Rejected, "REJECT"},
		{"a set that is not there", Input, []expression{loadDport, expr("lookup", attr(unix.NFTA_LOOKUP_SET, []byte("gone\x00")), attr32(unix.NFTA_LOOKUP_SREG, 1)), drop}, Unknown, "@gone drop"},
	} {
		p := syn(22)
		if c.hook == Forward {
			p.To = them4.Next()
		}
		r := made(c.hook, c.exprs)
		out := r.Follow(p, Options{Host: testHost()})
		if out.Verdict != c.want {
			t.Errorf("%s: %s, want %s", c.name, describe(out), c.want)
		}
		if text := r.Text(r.Chains[0], 0); text != c.text {
			t.Errorf("%s is written %q, want %q", c.name, text, c.text)
		}
		place := &Place{r, r.Chains[0], 0}
		if strings.EqualFold(c.name, "tproxy") {
			if out.TProxy == nil || out.TProxyTo != 22 {
				t.Errorf("%s: %+v", c.name, out)
			}
			if port, ok := place.TProxy(); !ok || port != 22 {
				t.Errorf("%s: found at port %d, %v", c.name, port, ok)
			}
		} else if _, ok := place.TProxy(); ok {
			t.Errorf("%s is taken for tproxy", c.name)
		}
		if name, ok := place.Offloads(); ok != (c.name == "flow add") || ok && name != "fast" {
			t.Errorf("%s: flowtable %q, %v", c.name, name, ok)
		}
	}
}

func TestAnEstablishedConnectionIsJudged(t *testing.T) {
	needNFT(t)
	r := load(t, in("drop", "tcp flags & (syn | ack) != syn ct state established ct label 127 accept", "ct direction reply accept"))
	for _, c := range []struct {
		name string
		conn Conn
		want Verdict
	}{
		{"labelled", Conn{Established: true, Labels: []int{127}, Flags: 0x10}, Accepted},
		{"with another label", Conn{Established: true, Labels: []int{3}, Flags: 0x10}, Dropped},
		{"a SYN inside", Conn{Established: true, Labels: []int{127}}, Dropped},
		{"a reply", Conn{Established: true, Reply: true, Flags: 0x12}, Accepted},
	} {
		p := syn(22)
		p.Conn = &c.conn
		if out := r.Follow(p, Options{Host: testHost()}); out.Verdict != c.want {
			t.Errorf("%s: %s, want %s", c.name, describe(out), c.want)
		}
	}
}

func TestOneBitMayBeKnownWhileItsNeighbourIsNot(t *testing.T) {
	half := []cell{{0x40, 0xf0, elsewhere}} // 0x40 to 0x4f
	for _, c := range []struct {
		from, to byte
		want     answer
	}{{0x40, 0x4f, yes}, {0x00, 0x3f, no}, {0x50, 0xff, no}, {0x45, 0x60, maybe}, {0x41, 0x41, maybe}, {0x51, 0x51, no}} {
		if got := within(half, []byte{c.from}, []byte{c.to}); got != c.want {
			t.Errorf("%#x to %#x: %v, want %v", c.from, c.to, got, c.want)
		}
	}
	if c := and(half[0], known(0xf0)); c.bits != 0xff || c.value != 0x40 {
		t.Errorf("%+v", c)
	}
}

// Rules are written as nft prints them.
func TestRulesArePrintedAsByNFT(t *testing.T) {
	needNFT(t)
	for _, rule := range []string{
		"tcp dport 22 drop", "tcp dport != 22 accept", "tcp dport 20-30 drop", "tcp dport { 22, 80 } accept", "tcp dport vmap { 22 : drop, 80 : jump other }", "udp dport >= 1024 counter drop", "th dport 22 drop",
		"ip saddr 192.0.2.7 drop", "ip saddr 10.0.0.0/8 drop", "ip saddr 10.0.0.0/9 drop", "ip saddr != 192.0.2.0/25 drop", "ip daddr { 10.0.0.0/8, 192.0.2.1 } drop", "ip6 saddr 2001:db8::/32 drop", "ip6 daddr fd09::1 tcp dport 22 accept", "ip saddr . tcp dport @pairs drop",
		"iifname \"eth0\" drop", "iifname \"eth*\" drop", "iifname != \"lo\" drop", "iifgroup 5 drop", "meta nfproto ipv4 drop", "meta l4proto udp drop", "meta mark 0x00000007 accept", "meta mark & 0x40000000 == 0x40000000 accept", "meta mark set meta mark | 0x40000000", "meta mark set 0x00000012",
		"ct state established,related accept", "ct state new drop", "ct direction reply accept", "ct status dnat drop", "ct mark set meta mark", "meta mark set ct mark", "ct label 127 drop", "ct label set 127", "meta l4proto tcp ct original proto-dst 22 drop",
		"tcp flags & (syn | ack) == syn drop", "tcp flags syn drop", "fib daddr type local drop", "fib saddr . iif oif 0 drop", "limit rate 10/second accept", "limit rate over 1/minute drop", "reject with tcp reset", "jump other", "return", "counter name \"hits\" drop", "rt type 0 drop", "add @seen { ip saddr }",
	} {
		r := load(t, in("accept", rule))
		c := r.Chain(TableID{INet, "t"}, "input")
		if got := r.Text(c, 0); got != rule {
			t.Errorf("%q is written %q", rule, got)
		}
	}
	for nat, want := range map[string]string{"tcp dport 80 redirect to :22": "tcp dport 80 redirect to :22", "tcp dport 80 dnat ip to 10.7.0.9:22": "meta nfproto ipv4 tcp dport 80 dnat ip to 10.7.0.9:22", "tcp dport 81 dnat ip6 to [fd07::9]:22": "meta nfproto ipv6 tcp dport 81 dnat ip6 to [fd07::9]:22"} {
		r := load(t, "table inet t { chain c { type nat hook prerouting priority dstnat; "+nat+"; }\n }")
		if got := r.Text(r.Chains[0], 0); got != want && got != nat {
			t.Errorf("%q is written %q", nat, got)
		}
	}
}
