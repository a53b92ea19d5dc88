package nft

import (
	"net"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/firewall/firewalltest"
)

// BenchmarkEndSessions ends the sessions of one client, of which there are none,
// on a host with few connections and with thousands.
func BenchmarkEndSessions(b *testing.B) {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		b.Fatalf("ip: %v, %s", err, out)
	}
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	limit.Cur = min(limit.Max, 20000)
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	backend := newBackend(b)
	door := ssh
	door.Established = firewall.Cut
	guard(b, backend, door)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for _, n := range []struct {
		name  string
		count int
	}{{"few", 0}, {"7000", 3500}} { // each is two sockets here
		for range n.count {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			other, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer other.Close()
		}
		b.Run(n.name, func(b *testing.B) {
			for b.Loop() {
				if err := backend.EndSessions(b.Context(), []firewall.Grant{firewalltest.Grant("ssh", "192.0.2.1", time.Minute)}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
