package doctor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// system looks at what the kernel and the host are.
func (x *exam) system() {
	x.group()
	var t unix.Timex
	if state, err := unix.Adjtimex(&t); err != nil {
		x.say("clock", "", "", Warning, "cannot tell whether it is synchronised: %v", err)
	} else if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		x.say("clock", "", "", Warning, "not synchronised (one-time codes and tickets need the right time; timedatectl set-ntp true)")
	} else {
		x.say("clock", "", "", OK, "synchronised")
	}
	if names := legacy(); names != "" {
		x.say("legacy", names, "", Warning, "iptables-legacy has tables, which nf_tables does not show: whether they drop or let through is not looked at (iptables-legacy-save)")
	}
	x.conntrack(sysctl)
	for _, door := range x.Config.Doors {
		x.ephemeral(door)
		if to := door.Forward; to.IsValid() {
			file, key := "net/ipv4/ip_forward", "net.ipv4.ip_forward"
			if !to.Addr().Is4() {
				file, key = "net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"
			}
			if n, ok := sysctl(file); !ok || n == 0 {
				x.say("forwarding", door.Name, "", Fail, "%s is off, so nothing is sent on to %s (sysctl -w %s=1)", key, to, key)
			} else {
				x.say("forwarding", door.Name, "", OK, "%s is on", key)
			}
		}
	}
}

// sysctl reads a number of the kernel's.
func sysctl(file string) (int, bool) {
	text, err := os.ReadFile("/proc/sys/" + file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return n, err == nil
}

// What conntrack should remember at least. TCP: RFC 5382 asks for 2 h 4 min,
// which is more than the first keepalive probe takes. UDP: a service that keeps
// its path open sends every 25 s or so (WireGuard's PersistentKeepalive).
const (
	leastTCP = 2*time.Hour + 4*time.Minute
	leastUDP = 30 * time.Second
)

// conntrack warns if sessions through a door that keeps them are forgotten
// while they live.
func (x *exam) conntrack(sysctl func(string) (int, bool)) {
	for _, c := range []struct {
		protocol firewall.Protocol
		key      string
		least    time.Duration
		cure     string
	}{
		{firewall.TCP, "nf_conntrack_tcp_timeout_established", leastTCP, "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=432000, or keepalives more often than that, like ssh's ServerAliveInterval"},
		{firewall.UDP, "nf_conntrack_udp_timeout_stream", leastUDP, "sysctl -w net.netfilter.nf_conntrack_udp_timeout_stream=120"},
	} {
		var doors []string
		for _, d := range x.Config.Doors {
			for _, p := range d.Ports {
				if d.Established != firewall.Cut && p.Protocol == c.protocol {
					doors = append(doors, d.Name)
					break
				}
			}
		}
		n, ok := sysctl("net/netfilter/" + c.key)
		if !ok || doors == nil {
			continue
		}
		if after := time.Duration(n) * time.Second; after < c.least {
			x.say("conntrack", strings.Join(doors, ", "), "", Warning, "sessions over %s that are idle for %s are forgotten, and then cut although the door keeps sessions (%s)", c.protocol, after, c.cure)
		}
	}
	count, ok1 := sysctl("net/netfilter/nf_conntrack_count")
	limit, ok2 := sysctl("net/netfilter/nf_conntrack_max")
	if ok1 && ok2 && limit > 0 && count >= limit/10*9 {
		x.say("conntrack", "table", "", Warning, "%d of %d connections: when it is full, new ones are dropped (sysctl -w net.netfilter.nf_conntrack_max=%d)", count, limit, 2*limit)
	}
}

// legacy returns the names of the tables of iptables-legacy, if any.
func legacy() string {
	var names []string
	for _, file := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
		text, _ := os.ReadFile(file)
		names = append(names, strings.Fields(string(text))...)
	}
	return strings.Join(names, ", ")
}

// ephemeral warns of doors that this host's own connections may begin at.
func (x *exam) ephemeral(door firewall.Door) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return
	}
	var first, last int
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil {
		return
	}
	for _, p := range door.Ports {
		if int(p.First) <= last && int(p.Last) >= first {
			x.say("ports", door.Name, "", Warning, "%s overlaps the ports that this host's own connections begin at, %d to %d (reserve them: sysctl net.ipv4.ip_local_reserved_ports=%d-%d)", p, first, last, p.First, p.Last)
		}
	}
}
