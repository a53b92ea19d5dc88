package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

// says fails unless the doctor has a finding that begins so, written "status check
// subject family: detail".
func (w *world) says(want ...string) {
	w.t.Helper()
	out, stderr, _ := w.webknock("doctor", "-o", "json", "--from", aliceIP)
	var report struct {
		Findings []struct{ Check, Subject, Family, Status, Detail string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		w.t.Fatalf("doctor: %v\n%s%s", err, out, stderr)
	}
next:
	for _, text := range want {
		head, detail, _ := strings.Cut(text, ": ")
		for _, f := range report.Findings {
			if strings.Join(strings.Fields(f.Status+" "+f.Check+" "+f.Subject+" "+f.Family), " ") == head && strings.Contains(f.Detail, detail) {
				continue next
			}
		}
		w.t.Errorf("nothing like %q in\n%s", text, out)
	}
}

func (w *world) load(nft string) {
	w.t.Helper()
	file := filepath.Join(w.dir, "load.nft")
	if err := os.WriteFile(file, []byte(strings.NewReplacer("}table", "}\ntable", "} }", "}\n}").Replace(nft)), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.nft("-f", file)
}

func (w *world) sh(script string) {
	w.t.Helper()
	if err := w.server.Run("sh", "-ec", script); err != nil {
		w.t.Fatal(err)
	}
}

// Other ports that lead to a guarded one: the doctor says what packets show.
func TestTheDoctorSeesSideEntrances(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	side := "table inet side { chain pre { type nat hook prerouting priority dstnat; tcp dport 2222 redirect to :22; meta nfproto ipv4 tcp dport 2223 dnat ip to " + serverIP + ":22; }\n }"
	w.load(side)
	w.mustPass(w.alice, serverIP, 2222, false)
	w.mustPass(w.alice, serverIP, 2223, false)
	w.says("ok shut ssh 22/tcp ipv4: dropped by webknock")
	if out, _, _ := w.webknock("doctor"); strings.Contains(out, "redirect") {
		t.Errorf("the guard keeps them out, and the doctor says\n%s", out)
	}
	w.daemon.stop(t, syscall.SIGTERM)
	w.must("unguard")
	w.load("flush ruleset\n" + side + "table inet filter { chain early { type filter hook prerouting priority -150; tcp dport 22 drop; }\n }")
	w.mustPass(w.alice, serverIP, 22, false)
	w.mustPass(w.alice, serverIP, 2222, true)
	w.mustPass(w.alice, serverIP, 2223, true)
	w.says("ok shut ssh 22/tcp ipv4: dropped by rule 1 of chain inet filter early (tcp dport 22 drop)",
		"fail redirect 2222/tcp ipv4: open to strangers: rule 1 of chain inet side pre (tcp dport 2222 redirect to :22) sends it to port 22 of door ssh",
		"fail redirect 2223/tcp ipv4: rule 2 of chain inet side pre (meta nfproto ipv4 tcp dport 2223 dnat ip to "+serverIP+":22)")
}

// tproxy leaves the packet's port alone: a stranger gets to the socket behind
// the guard, and the doctor says so.
func TestTheDoctorFailsOnTProxyToAGuardedPort(t *testing.T) {
	w := newWorld(t)
	err := w.server.Do(func() error {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) })
			if err == nil {
				err = cerr
			}
			return err
		}}
		l, err := config.Listen(context.Background(), "tcp4", ":22")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte("hello"))
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.serve(standard)
	w.mustPass(w.alice, serverIP, 8443, false)
	w.sh("ip rule add fwmark 1 lookup 100; ip route add local default dev lo table 100")
	w.load("table inet proxy { chain pre { type filter hook prerouting priority mangle; meta nfproto ipv4 tcp dport 8443 tproxy ip to :22 meta mark set 1 accept; }\n }")
	w.mustPass(w.alice, serverIP, 22, false)
	w.mustPass(w.alice, serverIP, 8443, true)
	w.says("fail redirect 8443/tcp ipv4: hands it to port 22 of door ssh")
	if _, _, code := w.webknock("doctor"); code != 1 {
		t.Errorf("exit %d", code)
	}
}

// A door's address in another routing table than "local", as with a VRF.
func TestTheDoctorJudgesAnAddressOfAnotherRoutingTable(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.sh(`ip route add local ` + serverIP + ` dev eth0 table 10
ip rule add iif eth0 lookup 10
ip rule add from ` + serverIP + ` lookup 10
ip rule add pref 1000 lookup local
ip rule del pref 0
ip route del local ` + serverIP + ` dev eth0 table local
ip route add 10.20.0.0/24 dev eth0 table 10`)
	for _, guarded := range []bool{true, false} {
		want := "ok shut ssh 22/tcp ipv4: dropped by webknock"
		if !guarded {
			w.must("unguard")
			// A guard that asks the table "local" does not see the address.
			w.load("table inet webknock { chain guard { type filter hook prerouting priority mangle; fib daddr type != local accept; tcp dport 22 drop; }\n }")
			want = "fail shut ssh 22/tcp ipv4: open to strangers"
		}
		w.mustPass(w.alice, serverIP, 22, !guarded)
		w.says(want)
	}
}

// Docker's rules as dockerd writes them for `-p 8081:80`.
const dockerRules = `*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport PORT -j DNAT --to-destination ` + innerIP + `:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d ` + innerIP + `/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
`

// container is a host behind a link of its own, as Docker's are behind docker0.
func (w *world) container() *lab.Host {
	w.t.Helper()
	h, err := w.net.Host("container")
	if err != nil {
		w.t.Fatal(err)
	}
	holder := h.Command(context.Background(), "sleep", "60")
	if err := holder.Start(); err != nil {
		w.t.Fatal(err)
	}
	defer func() { holder.Process.Kill(); holder.Wait() }()
	until(w.t, "the container's process", func() bool { // nsenter becomes it, inside
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", holder.Process.Pid))
		return strings.TrimSpace(string(name)) == "sleep"
	})
	w.sh(fmt.Sprintf(`sysctl -qw net.ipv4.ip_forward=1
ip link add docker0 type veth peer name in netns %d
ip link set docker0 up
ip addr add 10.30.0.1/24 dev docker0`, holder.Process.Pid))
	if err := h.Run("sh", "-ec", "ip link del eth0; ip link set in up; ip addr add "+innerIP+"/24 dev in; ip route add default via 10.30.0.1"); err != nil {
		w.t.Fatal(err)
	}
	return h
}

func TestTheDoctorListsPublishedPorts(t *testing.T) {
	w := newWorld(t)
	w.listenOn(w.container(), 80)
	w.serve(standard)
	docker := func(port int) {
		t.Helper()
		cmd := w.server.Command(t.Context(), "iptables-restore")
		cmd.Stdin = strings.NewReader(strings.ReplaceAll(dockerRules, "PORT", fmt.Sprint(port)))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("iptables-restore: %v\n%s", err, out)
		}
	}
	docker(8081)
	w.mustPass(w.mallory, serverIP, 8081, true)
	w.says("ok published 8081/tcp ipv4: open to everybody, and no door covers it: sent on to "+innerIP+":80 by rule 2 of chain ip nat DOCKER", "ok shut ssh 22/tcp ipv4")
	// ufw, say, drops what it has not been told of; Docker's rules come before.
	w.load(input())
	w.mustPass(w.mallory, serverIP, 8081, true)
	w.says("warning published 8081/tcp ipv4: the policy of chain inet filter input (drop), which would keep a service of this host's own shut, does not see it")
	w.nft("delete", "table", "inet", "filter")
	// A door covers what is published at its port.
	docker(8000)
	w.mustPass(w.mallory, serverIP, 8000, false)
	w.says("ok shut web 8000-8010/tcp ipv4: dropped by webknock", "ok passes web 8000/tcp ipv4: a grant gets through, to "+innerIP+":80")
	w.must("open", "web", aliceIP)
	w.mustPass(w.alice, serverIP, 8000, true)
	w.mustPass(w.mallory, serverIP, 8000, false)
}

// firewalld's own table, as it writes it for the zone public.
func firewalld(services string) string {
	return `table inet firewalld {
 chain filter_PREROUTING { type filter hook prerouting priority 10; policy accept; icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept; meta nfproto ipv6 fib saddr . mark . iif oif missing drop; }
 chain mangle_PREROUTING { type filter hook prerouting priority -140; policy accept; jump mangle_PREROUTING_ZONES; }
 chain mangle_PREROUTING_ZONES { iifname "eth0" goto mangle_PRE_public; goto mangle_PRE_public; }
 chain mangle_PRE_public { }
 chain nat_PREROUTING { type nat hook prerouting priority -90; policy accept; jump nat_PREROUTING_ZONES; }
 chain nat_PREROUTING_ZONES { iifname "eth0" goto nat_PRE_public; }
 chain nat_PRE_public { }
 chain filter_INPUT { type filter hook input priority 10; policy accept; ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; ct state invalid drop; jump filter_INPUT_ZONES; reject with icmpx admin-prohibited; }
 chain filter_INPUT_ZONES { iifname "eth0" goto filter_IN_public; goto filter_IN_public; }
 chain filter_IN_public { jump filter_IN_public_pre; jump filter_IN_public_log; jump filter_IN_public_deny; jump filter_IN_public_allow; jump filter_IN_public_post; meta l4proto { icmp, ipv6-icmp } accept; }
 chain filter_IN_public_pre { }
 chain filter_IN_public_log { }
 chain filter_IN_public_deny { }
 chain filter_IN_public_allow { tcp dport 8080 ct state { new, untracked } accept; ` + services + ` }
 chain filter_IN_public_post { }
 chain filter_FORWARD { type filter hook forward priority 10; policy accept; ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; ip6 daddr { ::/96, 64:ff9b::/96 } reject with icmpv6 addr-unreachable; ct state invalid drop; reject with icmpx admin-prohibited; }
}
`
}

func TestTheDoctorJudgesFirewalldsRules(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.load(ordered(firewalld("")))
	w.agree("firewalld, the service closed", false)
	w.says("fail passes ssh 22/tcp ipv4: rule 6 of chain inet firewalld filter_INPUT (reject) stops it")
	w.nft("delete", "table", "inet", "firewalld")
	w.load(ordered(firewalld("tcp dport 22 ct state { new, untracked } accept;")))
	w.agree("firewalld, the service open", false)
	w.wholePath()
}

// ordered puts an empty declaration of each chain in front of a table, so that
// rules may jump to chains that come after them.
func ordered(table string) string {
	head, _, _ := strings.Cut(table, "\n")
	text := head + "\n"
	for line := range strings.Lines(table) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "chain "), " {"); ok && strings.HasPrefix(strings.TrimSpace(line), "chain ") && !strings.Contains(line, " hook ") {
			text += " chain " + name + " { }\n"
		}
	}
	return text + "}\n" + table
}

// A guard without a daemon lets nobody in.
func TestTheDoctorFailsOnAGuardWithoutADaemon(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.configure(standard)
	w.must("guard")
	out, _, code := w.webknock("doctor")
	if code != 1 || !strings.Contains(out, "the guard is up: nobody can get in") {
		t.Errorf("exit %d\n%s", code, out)
	}
	w.must("unguard")
	out, _, code = w.webknock("doctor")
	if code != 1 || strings.Contains(out, "nobody can get in") || !strings.Contains(out, "nothing is guarded") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// The rule that takes a grant's mark away is named.
func TestTheDoctorNamesTheRuleThatWipesTheMark(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.load("table inet vpn { chain in { type filter hook input priority -10; ct state new meta mark set ct mark; }\n }" + input(marked))
	w.agree("wiped", false)
	w.says("fail passes ssh 22/tcp ipv4: the policy of chain inet filter input (drop) stops it, after rule 1 of chain inet vpn in (ct state new meta mark set ct mark) has cleared the mark")
	w.nft("delete", "table", "inet", "vpn")
	w.load("table inet early { chain pre { type filter hook prerouting priority 0; meta mark & 0x40000000 == 0 tcp dport 22 drop; }\n }")
	w.says("warning mark inet early: rule 1 of chain inet early pre (meta mark & 0x40000000 == 0x00000000 tcp dport 22 drop) asks for the mark 0x40000000 at prerouting")
}

// A listener on a socket from systemd is judged where it really is.
func TestTheDoctorFindsSocketsFromSystemd(t *testing.T) {
	w := newWorld(t)
	socket := w.socket()
	w.configure(listener(`address: "systemd:web"`))
	w.says("warning listener systemd:web ipv4: cannot tell where it listens")
	cmd := w.server.Command(t.Context(), "sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec "$0" serve --config "$1"`, binary, w.config())
	cmd.ExtraFiles = []*os.File{socket}
	w.daemon = w.start(cmd)
	w.daemon.wait(t, `"serving"`)
	w.says("ok listener systemd:web ipv4: knocks get here")
	w.load("table inet other { chain in { type filter hook input priority 0; tcp dport 8080 drop; }\n }")
	w.says("fail listener systemd:web ipv4: knocks do not get here: rule 1 of chain inet other in (tcp dport 8080 drop) stops them")
}
