package nftsim

import (
	"slices"
	"strings"
	"testing"
)

// in is a ruleset with one chain at input.
func in(policy string, rules ...string) string {
	return "table inet t {\n" + sets + " chain input {\n type filter hook input priority 0; policy " + policy + ";\n " + strings.Join(rules, "\n ") + "\n }\n}\n"
}

const sets = ` set ports { type inet_service; flags interval; elements = { 20-30, 80 } }
 set pairs { type ipv4_addr . inet_service; elements = { 192.0.2.7 . 22 } }
 set nets { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 22-25 } }
 set nets6 { type ipv6_addr . inet_service; flags interval; elements = { 2001:db8::/32 . 22-25 } }
 set seen { type ipv4_addr; flags dynamic; timeout 1m; }
 set all4 { type ipv4_addr; flags interval; elements = { 0.0.0.0/0 } }
 map where { type inet_service : verdict; elements = { 22 : drop, 23 : jump other } }
 map marks { type inet_service : mark; elements = { 22 : 0x7 } }
 counter hits { }
 quota spent { over 0 bytes }
 quota room { over 1000 mbytes }
 limit slow { rate 1/minute }
 chain other { drop; }
 chain back { return; }
`

// What one rule in front of `accept`, or of nothing, makes of a SYN to port 22.
func TestEachExpressionIsJudged(t *testing.T) {
	needNFT(t)
	const drops, passes, untold = Dropped, Accepted, Unknown
	cases := []struct {
		rule string
		want Verdict
	}{
		{"drop", drops}, {"accept", passes}, {"tcp dport 22 drop", drops}, {"tcp dport 23 drop", passes}, {"udp dport 22 drop", passes},
		{"tcp dport != 22 drop", passes}, {"tcp dport > 21 drop", drops}, {"tcp dport >= 23 drop", passes}, {"tcp dport < 22 drop", passes}, {"tcp dport <= 22 drop", drops},
		{"tcp dport 20-30 drop", drops}, {"tcp dport != 20-30 drop", passes}, {"tcp dport { 1, 22 } drop", drops}, {"tcp dport { 1-21, 23-99 } drop", passes}, {"tcp dport @ports drop", drops},
		{"th dport 22 drop", drops}, {"meta l4proto { tcp, udp } th dport 22 drop", drops}, {"meta l4proto . th dport vmap { tcp . 20-22 : drop }", drops},
		{"ip saddr 192.0.2.7 drop", drops}, {"ip saddr 192.0.2.0/25 drop", drops}, {"ip saddr 192.0.2.0/24 drop", drops}, {"ip saddr 10.0.0.0/8 drop", passes}, {"ip saddr != 10.0.0.0/8 drop", drops},
		{"ip6 saddr ::/0 drop", passes}, {"ip daddr 10.9.0.1 drop", drops}, {"ip saddr . tcp dport @pairs drop", drops}, {"ip saddr . tcp dport @nets drop", drops}, {"ip saddr @all4 drop", drops},
		{"ip saddr { 192.0.2.0/24, 10.0.0.0/8 } drop", drops}, {"tcp dport vmap @where", drops}, {"tcp dport vmap { 22 : goto other, 23 : accept }", drops}, {"tcp dport vmap { 1-9 : drop, * : accept }", passes},
		{"meta mark set tcp dport map @marks meta mark 7 drop", drops},
		{"meta mark 0 drop", drops}, {"meta mark set 0x12 meta mark & 0xf0 == 0x10 drop", drops}, {"meta mark set meta mark | 0x40 meta mark 0x40 drop", drops}, {"meta mark set 3 meta mark set meta mark ^ 1 meta mark 2 drop", drops},
		{"meta mark set 1 meta mark set meta mark << 4 meta mark 0x10 drop", drops}, {"ct mark set 5 ct mark 5 drop", drops}, {"ct mark set 5 meta mark set ct mark meta mark 5 drop", drops},
		{"ct state new drop", drops}, {"ct state established,related drop", passes}, {"ct state invalid drop", passes}, {"ct state untracked drop", passes}, {"ct state vmap { new : drop, established : accept }", drops},
		{"ct direction original drop", drops}, {"ct direction reply drop", passes}, {"ct status dnat drop", passes}, {"ct status assured drop", passes}, {"ct label 127 drop", passes}, {"ct label set 127 ct label 127 drop", drops},
		{"meta l4proto tcp ct original proto-dst 22 drop", drops}, {"ct original ip saddr 192.0.2.7 drop", drops}, {"ct original ip daddr 10.9.0.1 drop", drops}, {"meta l4proto tcp ct reply proto-dst 22 drop", untold}, {"ct protocol tcp drop", drops}, {"ct l3proto ipv4 drop", drops}, {"ct helper \"ftp\" drop", passes}, {"ct expiration 5s drop", untold},
		{"tcp flags & (syn | ack) == syn drop", drops}, {"tcp flags & (fin | syn | rst | ack) != syn drop", passes}, {"tcp flags syn drop", drops}, {"tcp flags ack drop", passes}, {"tcp flags == syn drop", untold}, {"tcp flags ecn drop", untold},
		{"tcp sport 1024-65535 drop", untold}, {"tcp sport 0-65535 drop", drops}, {"tcp option maxseg exists drop", untold}, {"tcp option maxseg size 1-500 drop", untold},
		{"iifname eth0 drop", drops}, {"iifname \"eth*\" drop", drops}, {"iifname eth1 drop", passes}, {"iifname lo drop", passes}, {"iif lo drop", passes}, {"iifgroup 5 drop", drops}, {"iifgroup 6 drop", passes}, {"iiftype ether drop", drops}, {"iifname { eth0, eth1 } drop", drops}, {"oifname eth0 drop", passes},
		{"meta nfproto ipv4 drop", drops}, {"meta nfproto ipv6 drop", passes}, {"meta protocol ip drop", drops}, {"meta pkttype host drop", drops}, {"meta pkttype { broadcast, multicast } drop", passes}, {"meta length 40-1500 drop", untold}, {"meta random 5 drop", untold}, {"meta skuid 0 drop", untold}, {"meta hour \"00:00\"-\"12:00\" drop", untold}, {"meta cpu 0 drop", untold},
		{"fib daddr type local drop", drops}, {"fib daddr type unicast drop", passes}, {"fib saddr type unicast drop", drops}, {"fib saddr . iif oif missing drop", passes}, {"fib saddr . iif oif exists drop", drops}, {"fib daddr . iif type local drop", drops},
		{"ip ttl 64 drop", untold}, {"ip protocol tcp drop", drops}, {"ip protocol icmp drop", passes}, {"ip version 4 drop", drops}, {"ip frag-off & 0x1fff != 0 drop", passes}, {"ip dscp 0 drop", untold}, {"ether saddr 00:01:02:03:04:05 drop", untold},
		{"rt type 0 drop", passes}, {"ip6 nexthdr tcp drop", passes}, {"exthdr frag exists drop", passes}, {"icmp type echo-request drop", passes}, {"meta l4proto icmp drop", passes}, {"ip option lsrr exists drop", passes},
		{"limit rate 1/second drop", drops}, {"limit rate over 1/second drop", passes}, {"ct count over 5 drop", passes}, {"ct count 5 drop", drops}, {"quota over 1 mbytes drop", passes}, {"quota 1 mbytes drop", drops}, {"limit name slow drop", drops}, {"quota name spent drop", drops}, {"quota name room drop", passes},
		{"counter drop", drops}, {"counter name hits drop", drops}, {"log prefix \"x\" drop", drops}, {"notrack drop", drops},
		{"update @seen { ip saddr limit rate over 1/week burst 2 packets } drop", passes}, {"add @seen { ip saddr } ip saddr @seen drop", drops}, {"ip saddr @seen drop", passes},
		{"jump other", drops}, {"goto other", drops}, {"jump back", passes}, {"return", passes}, {"continue", passes}, {"reject", Rejected}, {"reject with tcp reset", Rejected},
		{"numgen random mod 2 0 drop", untold}, {"jhash ip saddr mod 2 0 drop", untold}, {"socket transparent 1 drop", untold}, {"osf name \"Linux\" drop", untold}, {"rt ip nexthop 10.9.0.2 drop", untold}, {"ipsec in reqid 1 drop", untold}, {"@th,16,16 22 drop", drops}, {"@nh,96,32 0xc0000207 drop", drops}, {"@ih,0,8 1 drop", untold},
		{"synproxy mss 1460", untold}, {"tcp dport & 0xff == 22 drop", drops}, {"tcp dport & 1 == 1 drop", passes},
		{"udp dport set 9", passes}, {"tcp dport set 2222 tcp dport 2222 drop", drops}, {"ip daddr set 10.9.0.9 ip daddr 10.9.0.9 drop", drops},
	}
	h := newHost(t)
	for _, c := range cases {
		if err := tryLoad(t, h, "flush ruleset\n"+in("accept", c.rule)); err != nil {
			t.Errorf("%s: %v", c.rule, err)
			continue
		}
		r := readFrom(t, h)
		if out := r.Follow(syn(22), Options{Host: testHost()}); out.Verdict != c.want {
			t.Errorf("%s\n  is %s, want %s", c.rule, describe(out), c.want)
		} else if out.By != nil && c.want == Dropped && out.By.Chain.Name == "input" && !strings.HasPrefix(out.By.String(), "rule 1 of chain inet t input (") {
			t.Errorf("%s\n  is named %q", c.rule, out.By)
		}
	}
}

// Ports that fare alike are found by what rules ask, not by trying each.
func TestPortsAreGroupedByTheRulesThatMatchThem(t *testing.T) {
	needNFT(t)
	for rule, want := range map[string][]uint16{ // where another interval begins
		"tcp dport 22 drop":                               {0, 22, 23},
		"tcp dport 20-30 drop":                            {0, 20, 31},
		"tcp dport @ports drop":                           {0, 20, 31, 80, 81},
		"tcp dport { 22, 443 } drop":                      {0, 22, 23, 443, 444},
		"ip saddr . tcp dport @nets drop":                 {0, 22, 26},
		"tcp dport > 1023 drop":                           {0, 1024},
		"meta l4proto tcp ct original proto-dst 5-6 drop": {0, 5, 7},
		"meta l4proto . th dport { tcp . 9 } drop":        {0, 9, 10},
		"accept": {0},
	} {
		r := load(t, in("accept", rule))
		var begins []uint16
		for p := 0; p <= 0xffff; {
			out := r.Follow(syn(uint16(p)), Options{Host: testHost()})
			if int(out.First) > p || int(out.Last) < p {
				t.Fatalf("%s: %d is not in %d-%d", rule, p, out.First, out.Last)
			}
			begins = append(begins, uint16(p))
			p = int(out.Last) + 1
		}
		if !slices.Equal(begins, want) {
			t.Errorf("%s: intervals begin at %v, want %v", rule, begins, want)
		}
	}
	// A mask is no range: every port that it depends on is looked at by itself.
	r := load(t, in("accept", "tcp dport & 0xff == 22 drop"))
	for _, p := range []uint16{21, 22, 256 + 22, 300} {
		if out := r.Follow(syn(p), Options{Host: testHost()}); out.First != p || out.Last != p || (out.Verdict == Dropped) != (p&0xff == 22) {
			t.Errorf("port %d: %s", p, describe(out))
		}
	}
}
