package nftsim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

// bench is a host that packets are sent to by two interfaces, as raw frames,
// and that notes how each of them ends.
type bench struct {
	*lab.Host
	network Host
	in      [2]Interface
	send    [2]func(frame []byte) error
	mac     [2]net.HardwareAddr
	sport   uint16 // of the last packet

	sentinel uint16 // of the packet that follows the last
}

// observer notes which packets begin, and which end where, by their source port.
// It runs before and after everything else.
const observer = `
table inet zz_observer {
 set begun { type inet_service; flags dynamic; size 65535; }
 set here { type inet_service . inet_service . mark; flags dynamic; size 65535; }
 set away4 { type inet_service . inet_service . mark . ipv4_addr; flags dynamic; size 65535; }
 set away6 { type inet_service . inet_service . mark . ipv6_addr; flags dynamic; size 65535; }
 chain begin { type filter hook prerouting priority -500; meta l4proto { tcp, udp } add @begun { th sport }; }
 chain here { type filter hook input priority 2000000000; meta l4proto { tcp, udp } add @here { th sport . th dport . meta mark }; }
 chain away { type filter hook forward priority 2000000000; meta nfproto ipv4 meta l4proto { tcp, udp } add @away4 { th sport . th dport . meta mark . ip daddr }; meta nfproto ipv6 meta l4proto { tcp, udp } add @away6 { th sport . th dport . meta mark . ip6 daddr }; }
}
`

func newBench(t *testing.T) *bench {
	t.Helper()
	n, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	server, err := n.Host("server")
	if err != nil {
		t.Fatal(err)
	}
	client, err := n.Host("client")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Host: server, sport: 2000, sentinel: 1}
	script := `set -e
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.send_redirects=0
ip link add d0 type veth peer name d1
ip link set d1 netns $1
ip link set d0 up
ip addr add 10.7.0.1/24 dev d0
ip addr add fd07::1/64 dev d0 nodad
for i in 0 1; do
 a=$((9 - i))
 ip link add in$i type veth peer name c$i
 ip link set c$i netns $1
 ip link set in$i up group $((5 + i))
 ip addr add 10.$a.0.1/24 dev in$i
 ip addr add fd0$a::1/64 dev in$i nodad
done
ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev in0
ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev d0
ip neigh add fd07::9 lladdr 02:00:00:00:00:09 dev d0
ip neigh add fd09::2 lladdr 02:00:00:00:00:02 dev in0
ip route add default via 10.9.0.2
ip -6 route add default via fd09::2
nsenter --net=/proc/$1/ns/net sh -c 'for i in c0 c1 d1; do sysctl -qw net.ipv6.conf.$i.disable_ipv6=1; ip link set $i up; done'
`
	// A process in the client's network names it for `ip link set netns`.
	holder := client.Command(context.Background(), "sleep", "60")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	// nsenter executes sleep in its own process, once it is in the namespace.
	waitFor(t, "the client's process", func() bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", holder.Process.Pid))
		return strings.TrimSpace(string(name)) == "sleep"
	})
	if err := server.Run("sh", "-c", script, "sh", strconv.Itoa(holder.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	index := map[string]int{}
	err = server.Do(func() error {
		for _, name := range []string{"in0", "in1", "d0", "lo"} {
			b.network.Interfaces = append(b.network.Interfaces, Interface{Name: name})
			out := &b.network.Interfaces[len(b.network.Interfaces)-1]
			i, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			index[name] = i.Index
			out.Index = i.Index
			if name == "in0" || name == "in1" {
				out.Group = uint32(5 + name[2] - '0')
			}
			if name == "in0" || name == "in1" {
				k := int(name[2] - '0')
				b.mac[k] = i.HardwareAddr
				b.in[k] = Interface{Name: name, Index: i.Index, Group: uint32(5 + k), Type: unix.ARPHRD_ETHER,
					Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.%d.0.1", 9-k)), netip.MustParseAddr(fmt.Sprintf("fd0%d::1", 9-k))}}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"c0", "c1"} {
		err := client.Do(func() error {
			c, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { unix.Close(fd) })
			b.send[i] = func(frame []byte) error {
				return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: c.Index, Halen: 6})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []string{"10.9.0.1/32", "10.8.0.1/32", "10.7.0.1/32", "fd09::1/128", "fd08::1/128", "fd07::1/128", "127.0.0.0/8", "::1/128"} {
		b.network.Local = append(b.network.Local, netip.MustParsePrefix(a))
	}
	for _, a := range []string{"10.9.0.255", "10.8.0.255", "10.7.0.255"} {
		b.network.Broadcast = append(b.network.Broadcast, netip.MustParseAddr(a))
	}
	b.network.Route = func(a netip.Addr) (int, bool) {
		switch {
		case contains(b.network.Local, a):
			return index["lo"], true
		case netip.MustParsePrefix("10.7.0.0/24").Contains(a), netip.MustParsePrefix("fd07::/64").Contains(a):
			return index["d0"], true
		case netip.MustParsePrefix("10.8.0.0/24").Contains(a), netip.MustParsePrefix("fd08::/64").Contains(a):
			return index["in1"], true
		}
		return index["in0"], true
	}
	return b
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("still no %s", what)
}

// frame makes a SYN or a datagram.
func (b *bench) frame(p Packet, in int) []byte {
	var l4 []byte
	if p.Protocol == unix.IPPROTO_TCP {
		l4 = make([]byte, 20)
		l4[12], l4[13] = 5<<4, 0x02
		binary.BigEndian.PutUint16(l4[14:], 65535)
	} else {
		l4 = make([]byte, 12)
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	binary.BigEndian.PutUint16(l4, p.SourcePort)
	binary.BigEndian.PutUint16(l4[2:], p.Port)
	pseudo := append(append([]byte{}, p.From.AsSlice()...), p.To.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(l4)))
	pseudo = append(pseudo, 0, 0, 0, p.Protocol)
	sum := checksum(append(pseudo, l4...))
	at := 16
	if p.Protocol == unix.IPPROTO_UDP {
		at = 6
		if sum == 0 {
			sum = 0xffff
		}
	}
	binary.BigEndian.PutUint16(l4[at:], sum)
	frame := append(append([]byte{}, b.mac[in]...), 2, 0, 0, 0, 0, 2)
	if p.To.Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, p.Protocol
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		copy(ip[12:], p.From.AsSlice())
		copy(ip[16:], p.To.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(append(append(frame, 0x08, 0), ip...), l4...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, p.Protocol, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
	copy(ip[8:], p.From.AsSlice())
	copy(ip[24:], p.To.AsSlice())
	return append(append(append(frame, 0x86, 0xdd), ip...), l4...)
}

func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		word := uint32(data[i]) << 8
		if i+1 < len(data) {
			word |= uint32(data[i+1])
		}
		sum += word
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ending is what really became of a packet.
type ending struct {
	here, away bool
	port       uint16
	mark       uint32
	to         netip.Addr
}

// try sends packets, each from a port of its own, and returns how they ended.
func (b *bench) try(t *testing.T, packets []Packet, in []int) []ending {
	t.Helper()
	for i := range packets {
		if err := b.send[in[i]](b.frame(packets[i], in[i])); err != nil {
			t.Fatal(err)
		}
	}
	// This thread stays on its processor, so packets are worked off in their order:
	// when the last has begun all others have ended; wait for one more.
	last := Packet{From: netip.MustParseAddr("203.0.113.9"), To: netip.MustParseAddr("10.9.0.1"), Protocol: unix.IPPROTO_UDP, Port: 9, SourcePort: b.sentinel}
	if err := b.send[0](b.frame(last, 0)); err != nil {
		t.Fatal(err)
	}
	table := TableID{INet, "zz_observer"}
	var r *Ruleset
	waitFor(t, "packet", func() bool {
		r = readFrom(t, b.Host)
		for _, e := range r.Sets[SetID{table, "begun"}].elements {
			if binary.BigEndian.Uint16(e.from) == b.sentinel {
				return true
			}
		}
		return false
	})
	ends := make([]ending, len(packets))
	for _, set := range []string{"here", "away4", "away6"} {
		for _, e := range r.Sets[SetID{table, set}].elements {
			for i, p := range packets {
				if binary.BigEndian.Uint16(e.from) == p.SourcePort {
					ends[i] = ending{here: set == "here", away: set != "here", port: binary.BigEndian.Uint16(e.from[4:]), mark: binary.NativeEndian.Uint32(e.from[8:])}
					ends[i].to, _ = netip.AddrFromSlice(e.from[12:])
				}
			}
		}
	}
	return ends
}

// The simulator says of random packets and random rulesets what a kernel does
// with them. Where it says that it cannot tell, anything may happen; but that it
// says of few. AGREEMENT=30s makes it try for longer, SEED=n another lot.
func TestTheSimulatorAgreesWithTheKernel(t *testing.T) {
	needNFT(t)
	if err := lab.Need("iptables-nft-restore", "ip6tables-nft-restore"); err != nil {
		t.Fatal(err)
	}
	period, err := time.ParseDuration(os.Getenv("AGREEMENT"))
	if err != nil {
		period = 8 * time.Second
	}
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = 1
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var home, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &home); err != nil {
		t.Fatal(err)
	}
	for cpu := range 1024 {
		if home.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &home)
	b := newBench(t)
	const least = 40
	rulesets, refused, decided, untold := 0, 0, 0, 0
	counts := map[Verdict]int{}
	wrong, repeated := 0, 0
next:
	for begin := time.Now(); (time.Since(begin) < period || rulesets < least) && wrong < 5; {
		g := &generator{rand.New(rand.NewPCG(seed, uint64(rulesets+refused)))}
		nft, four, six := g.ruleset()
		loadInto(t, b.Host, "flush ruleset")
		if err := tryLoad(t, b.Host, observer+nft); err != nil {
			if refused++; refused > 20+rulesets {
				t.Fatalf("%v\n%s", err, nft)
			}
			continue
		}
		for command, text := range map[string]string{"iptables-nft-restore": four, "ip6tables-nft-restore": six} {
			if text == "" {
				continue
			}
			cmd := b.Command(t.Context(), command)
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				if refused++; refused > 20+rulesets {
					t.Fatalf("%s: %v: %s\n%s", command, err, out, text)
				}
				continue next
			}
		}
		rulesets++
		b.sentinel = 1
		r := readFrom(t, b.Host)
		var packets []Packet
		var in []int
		for range 16 {
			p, i := g.packet(b)
			packets, in = append(packets, p), append(in, i)
		}
		told := slices.Clone(packets)
		for i := range told {
			if g.IntN(2) == 0 {
				told[i].SourcePort = 0 // the doctor does not know it either
			}
		}
		ends := b.try(t, packets, in)
		for i := range packets {
			out := r.Follow(told[i], Options{Host: b.network})
			if out.Verdict == Unknown {
				untold++
				continue
			}
			decided++
			counts[out.Verdict]++
			if agrees(out, ends[i]) {
				continue
			}
			// Once more, from another port: conntrack may have known this one.
			b.sport++
			again := packets[i]
			again.SourcePort = b.sport
			if told[i].SourcePort != 0 {
				told[i].SourcePort = b.sport
			}
			b.sentinel++
			end := b.try(t, []Packet{again}, in[i:i+1])[0]
			if out = r.Follow(told[i], Options{Host: b.network}); out.Verdict == Unknown || agrees(out, end) {
				repeated++
				continue
			}
			wrong++
			t.Errorf("seed %d, ruleset %d: %s/%d from %s to %s by %s\n the simulator: %s, mark %#x/%#x\n the kernel: %+v\n%s\n%s\n%s", seed, rulesets+refused-1, map[uint8]string{6: "tcp", 17: "udp"}[again.Protocol], again.Port, again.From, again.To, again.In.Name, describe(out), out.Mark, out.MarkKnown, end, nft, four, six)
			break
		}
	}
	if repeated > 1+decided/1000 {
		t.Errorf("%d packets of %d fared otherwise when they were sent again", repeated, decided)
	}
	t.Logf("%d rulesets (%d more not taken by nft), %d packets decided (%v), %d not, %d sent again", rulesets, refused, decided, counts, untold, repeated)
	if decided < 3*untold || counts[Accepted] < decided/10 || counts[Dropped] < decided/10 {
		t.Errorf("too little is decided, or all alike: %d, %v, and %d not", decided, counts, untold)
	}
}

// agrees reports whether the simulator said how a packet really ended.
func agrees(out Outcome, end ending) bool {
	if out.Verdict != Accepted {
		return !end.here && !end.away
	}
	return end.here == out.Delivered && end.away != out.Delivered &&
		(out.To.Port() == 0 || out.To.Port() == end.port) && (end.here || out.To.Addr() == end.to) &&
		out.Mark == end.mark&out.MarkKnown
}
