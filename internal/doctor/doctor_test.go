package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"webknock/config"
	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/integration/lab"
)

func TestMain(m *testing.M) {
	lab.Enter()
	os.Exit(m.Run())
}

// patient is a host to be examined: its guard is what `webknock guard` would put
// up for its doors.
type patient struct {
	*lab.Host
	cfg *config.Config
}

func newPatient(t *testing.T, doors ...firewall.Door) *patient {
	t.Helper()
	n, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	h, err := n.Host("host", "10.9.0.1/24", "fd09::1/64")
	if err != nil {
		t.Fatal(err)
	}
	p := &patient{h, &config.Config{Doors: doors}}
	p.cfg.Firewall.Table = "webknock"
	p.cfg.Firewall.Guard = firewall.Guard{Doors: doors, Mark: 0x40000000}
	p.cfg.Listeners = []config.Listener{{Address: ":8080"}}
	p.nft(t, guard)
	return p
}

var (
	ssh  = firewall.Door{Name: "ssh", Ports: []firewall.Ports{{Protocol: firewall.TCP, First: 22, Last: 22}}, TTL: time.Minute, MaxTTL: time.Minute}
	wide = firewall.Door{Name: "wide", Ports: []firewall.Ports{{Protocol: firewall.UDP, First: 6000, Last: 60000}}, Established: firewall.Cut}
)

// guard is one in small, as the nft backend writes them for ssh and wide.
const guard = `table inet webknock {
 set ssh4 { type ipv4_addr; flags timeout; timeout 1d; }
 set ssh6 { type ipv6_addr; flags timeout; timeout 1d; }
 set wide4 { type ipv4_addr; flags timeout; timeout 1d; }
 set wide6 { type ipv6_addr; flags timeout; timeout 1d; }
 chain door_ssh { ip saddr @ssh4 ct label set 127 meta mark set meta mark | 0x40000000 accept; ip6 saddr @ssh6 ct label set 127 meta mark set meta mark | 0x40000000 accept; tcp flags & (syn | ack) != syn ct state established ct label 127 accept; counter drop; }
 chain door_wide { ip saddr @wide4 meta mark set meta mark | 0x40000000 accept; ip6 saddr @wide6 meta mark set meta mark | 0x40000000 accept; counter drop; }
 chain asked_for { meta l4proto tcp ct original proto-dst 22 goto door_ssh; meta l4proto udp ct original proto-dst 6000-60000 goto door_wide; }
 chain input { type filter hook input priority mangle; iifname lo accept; ct direction reply accept; tcp dport 22 goto door_ssh; udp dport 6000-60000 goto door_wide; ct status dnat goto asked_for; }
 chain forward { type filter hook forward priority mangle; ct direction reply accept; ct status dnat goto asked_for; }
}
`

func (p *patient) nft(t *testing.T, text string) {
	t.Helper()
	cmd := p.Command(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, text)
	}
}

func (p *patient) run(t *testing.T, command string) {
	t.Helper()
	if err := p.Run("sh", "-ec", command); err != nil {
		t.Fatal(err)
	}
}

func (p *patient) examine(t *testing.T, from string) (r Report) {
	t.Helper()
	o := Options{Config: p.cfg, API: admin.API{Socket: filepath.Join(t.TempDir(), "none.sock")}}
	if from != "" {
		o.From = netip.MustParseAddr(from)
	}
	if err := p.Do(func() error { r = Examine(context.Background(), o); return nil }); err != nil {
		t.Fatal(err)
	}
	return r
}

// finds fails unless there is a finding, written "status check subject: detail"
// of which the detail need hold only the given text.
func finds(t *testing.T, r Report, want ...string) {
	t.Helper()
	for _, w := range want {
		head, detail, _ := strings.Cut(w, ": ")
		found := false
		for _, f := range r.Findings {
			if strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s", f.Status, f.Check, f.Subject, f.Family)), " ") == head && strings.Contains(f.Detail, detail) {
				found = true
			}
		}
		if !found {
			t.Errorf("nothing like %q in\n%s", w, text(r))
		}
	}
}

func findsNone(t *testing.T, r Report, check string) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Check == check {
			t.Errorf("there is %+v", f)
		}
	}
}

func text(r Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s %s %s: %s\n", f.Status, f.Check, f.Subject, f.Family, f.Detail)
	}
	return b.String()
}

func TestTheDoctorFindsASoundGuardOK(t *testing.T) {
	p := newPatient(t, ssh, wide)
	r := p.examine(t, "")
	finds(t, r, "ok guard inet webknock: is there",
		"ok shut ssh 22/tcp ipv4: dropped by webknock", "ok shut ssh 22/tcp ipv6: dropped by webknock", "ok passes ssh 22/tcp ipv4: gets through",
		"ok shut wide 6000-60000/udp ipv4: dropped by webknock", "ok passes wide 6000-60000/udp ipv6: gets through",
		"warning listener :8080 ipv4: nothing listens")
	for _, check := range []string{"redirect", "published", "transit", "mark", "tracking", "flowtable", "ruleset"} {
		findsNone(t, r, check)
	}
}

func TestAGuardWithoutADaemonFails(t *testing.T) {
	p := newPatient(t, ssh)
	r := p.examine(t, "")
	if r.Status != Fail {
		t.Errorf("the report is %s", r.Status)
	}
	for _, f := range r.Findings {
		if f.Check == "daemon" && (f.Status != Fail || !strings.Contains(f.Detail, "nobody can get in")) {
			t.Errorf("%+v", f)
		}
	}
	p.nft(t, "flush ruleset")
	r = p.examine(t, "")
	finds(t, r, "fail guard inet webknock: nothing is guarded", "fail shut ssh 22/tcp ipv4: open to strangers")
	for _, f := range r.Findings {
		if f.Check == "daemon" && f.Status != Warning {
			t.Errorf("%+v", f)
		}
	}
}

// What was "cannot tell" once.
func TestTheDoctorJudgesCommonRules(t *testing.T) {
	p := newPatient(t, ssh)
	for _, c := range []struct{ name, rules, want string }{
		{"lo without a default route", `iif lo accept; tcp dport 22 meta mark & 0x40000000 != 0 accept; drop`, "ok passes ssh 22/tcp ipv4"},
		{"an interface by name", `iifname eth0 tcp dport 22 drop`, "fail passes ssh 22/tcp ipv4: rule 1 of chain inet other in (iifname \"eth0\" tcp dport 22 drop) stops it"},
		{"another interface", `iifname eth1 drop`, "ok passes ssh 22/tcp ipv4"},
		{"ufw's routing header", `rt type 0 drop`, "ok passes ssh 22/tcp ipv6"},
		{"a source port", `tcp sport 1-1023 drop`, "warning passes ssh 22/tcp ipv4: cannot tell: it depends on rule 1 of chain inet other in (tcp sport 1-1023 drop)"},
	} {
		p.nft(t, "table inet other { chain in { type filter hook input priority 0; "+c.rules+"; }\n }")
		r := p.examine(t, "")
		head, detail, _ := strings.Cut(c.want, ": ")
		finds(t, r, head+": "+detail)
		p.nft(t, "delete table inet other")
	}
}

// What to do about a rule that stops a grant depends on where it stands.
func TestTheHintFitsTheRule(t *testing.T) {
	p := newPatient(t, ssh)
	p.nft(t, "table inet other { chain in { type filter hook input priority 0; tcp dport 22 drop; }\n }")
	finds(t, p.examine(t, ""), "fail passes ssh 22/tcp ipv4: (accept the mark 0x40000000 there, see docs/doors.md)")
	p.cfg.Firewall.Guard.Mark = 0
	finds(t, p.examine(t, ""), "fail passes ssh 22/tcp ipv4: (let the port be there, or set firewall.mark and accept that)")
	p.cfg.Firewall.Guard.Mark = 0x40000000
	p.nft(t, "delete table inet other; table inet other { chain pre { type filter hook prerouting priority 0; tcp dport 22 drop; }\n }")
	finds(t, p.examine(t, ""), "fail passes ssh 22/tcp ipv4: at prerouting no packet has the mark 0x40000000 yet: move the rule to input or forward")
}

// Without an address nobody can come in, but it is not "cannot tell".
func TestTheDoctorJudgesAHostWithoutAddresses(t *testing.T) {
	p := newPatient(t, ssh)
	p.run(t, "ip addr flush dev eth0")
	finds(t, p.examine(t, ""), "ok shut ssh 22/tcp ipv4: dropped by webknock", "ok shut ssh 22/tcp ipv6: dropped by webknock", "ok passes ssh 22/tcp ipv6")
	p.run(t, "ip link del eth0")
	finds(t, p.examine(t, ""), "ok shut ssh 22/tcp ipv4: dropped by webknock", "ok shut ssh 22/tcp ipv6: dropped by webknock")
}

func TestInterfacesThatDifferAreNamed(t *testing.T) {
	p := newPatient(t, ssh)
	p.run(t, "ip link add eth1 type veth peer name far; ip link set eth1 up; ip addr add 10.8.0.1/24 dev eth1")
	p.nft(t, "add rule inet webknock input iifname eth1 accept comment \"somebody's\"")
	p.nft(t, "insert rule inet webknock input iifname eth1 accept")
	finds(t, p.examine(t, "10.9.0.7"), "fail shut ssh 22/tcp ipv4: through eth1: open to strangers")
	p.nft(t, "flush chain inet webknock input; add rule inet webknock input ip daddr 10.9.0.1 tcp dport 22 goto door_ssh")
	finds(t, p.examine(t, "10.9.0.7"), "fail shut ssh 22/tcp ipv4: at 10.8.0.1: open to strangers")
	// Without a route to the client every interface may be the one.
	p.nft(t, "flush ruleset\n"+guard+"table inet other { chain in { type filter hook input priority 0; iifname eth1 tcp dport 22 drop; }\n }")
	finds(t, p.examine(t, ""), "warning passes ssh 22/tcp ipv4: through eth1 at 10.8.0.1: a grant does not get through: rule 1 of chain inet other in")
}

// A door's address may be in another table than "local", as with a VRF.
func TestTheDoctorJudgesAnAddressInAnotherRoutingTable(t *testing.T) {
	p := newPatient(t, ssh)
	p.run(t, `ip route add local 10.9.0.99 dev eth0 table 10
ip rule add iif eth0 lookup 10
ip route add local 10.9.0.98 dev eth0 table 10`)
	finds(t, p.examine(t, "10.9.0.7"), "ok shut ssh 22/tcp ipv4: dropped by webknock")
	// A guard that asks the table "local" does not see it.
	p.nft(t, "flush ruleset\n"+strings.Replace(guard, "tcp dport 22 goto door_ssh; udp", "fib daddr type local tcp dport 22 goto door_ssh; udp", 1))
	finds(t, p.examine(t, "10.9.0.7"), "fail shut ssh 22/tcp ipv4: at 10.9.0.98, 10.9.0.99: open to strangers")
}

func TestTheDoctorFindsSideEntrances(t *testing.T) {
	p := newPatient(t, ssh)
	nat := func(rules string) string {
		return "table inet side { chain pre { type nat hook prerouting priority dstnat; " + rules + "; }\n }"
	}
	p.nft(t, nat("tcp dport 2222 redirect to :22; udp dport 2222 redirect to :22"))
	finds(t, p.examine(t, ""), "ok shut ssh 22/tcp ipv4") // the guard sees the port that the service has
	findsNone(t, p.examine(t, ""), "redirect")
	// A guard at prerouting, before DNAT, does not.
	p.nft(t, "delete table inet webknock")
	p.nft(t, "table inet webknock { chain guard { type filter hook prerouting priority mangle; tcp dport 22 drop; }\n }")
	finds(t, p.examine(t, ""), "fail redirect 2222/tcp ipv4: rule 1 of chain inet side pre (tcp dport 2222 redirect to :22) sends it to port 22 of door ssh", "fail redirect 2222/tcp ipv6: open to strangers", "ok shut ssh 22/tcp ipv4")
	p.nft(t, "delete table inet side")
	p.nft(t, nat("meta nfproto ipv4 tcp dport 4000-4001 dnat ip to 10.9.0.1:22"))
	finds(t, p.examine(t, ""), "fail redirect 4000-4001/tcp ipv4: sends it to port 22 of door ssh")
}

// tproxy leaves a packet's port alone, so the guard does not see the one that
// the socket has.
func TestTProxyToAGuardedPortFails(t *testing.T) {
	p := newPatient(t, ssh)
	if err := p.Run("nft", "add table inet side; add chain inet side pre { type filter hook prerouting priority mangle; }; add rule inet side pre meta l4proto tcp tcp dport 8443 tproxy to :22 meta mark set 1 accept"); err != nil {
		t.Fatal(err)
	}
	finds(t, p.examine(t, ""), "fail redirect 8443/tcp ipv4: hands it to port 22 of door ssh")
}

// Docker's rules as dockerd writes them for `-p 8080:80` and `-p 127.0.0.1:9000:90`.
const docker = `*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER -d 127.0.0.1/32 ! -i docker0 -p tcp -m tcp --dport 9000 -j DNAT --to-destination 172.17.0.2:90
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
`

func (p *patient) docker(t *testing.T) {
	t.Helper()
	p.run(t, "ip link add docker0 type bridge; ip link set docker0 up; ip addr add 172.17.0.1/16 dev docker0; sysctl -qw net.ipv4.ip_forward=1")
	cmd := p.Command(t.Context(), "iptables-nft-restore")
	cmd.Stdin = strings.NewReader(docker)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("iptables: %v\n%s", err, out)
	}
}

func TestPublishedPortsThatNoDoorCoversAreAFinding(t *testing.T) {
	p := newPatient(t, ssh)
	p.docker(t)
	r := p.examine(t, "")
	finds(t, r, "ok published 8080/tcp ipv4: open to everybody, and no door covers it: sent on to 172.17.0.2:80 by rule 2 of chain ip nat DOCKER (iifname != \"docker0\" tcp dport 8080 counter DNAT 172.17.0.2:80)")
	for _, f := range r.Findings {
		if f.Check == "published" && f.Subject != "8080/tcp" {
			t.Errorf("%+v", f)
		}
	}
	// Docker's rules come before those that would keep a service of the host's own shut.
	p.nft(t, "table inet filter { chain input { type filter hook input priority 0; policy drop; }\n }")
	finds(t, p.examine(t, ""), "warning published 8080/tcp ipv4: the policy of chain inet filter input (drop), which would keep a service of this host's own shut, does not see it")
	// A door for the port that clients ask for.
	p.nft(t, "delete table inet filter; delete table inet webknock")
	p.nft(t, strings.NewReplacer("proto-dst 22", "proto-dst 8080", "dport 22", "dport 8080").Replace(guard))
	p.cfg.Doors = []firewall.Door{ssh}
	p.cfg.Doors[0].Ports = []firewall.Ports{{Protocol: firewall.TCP, First: 8080, Last: 8080}}
	r = p.examine(t, "")
	findsNone(t, r, "published")
	finds(t, r, "ok shut ssh 8080/tcp ipv4: dropped by webknock", "ok passes ssh 8080/tcp ipv4: a grant gets through, to 172.17.0.2:80, by rule 2 of chain ip nat DOCKER")
}

// A cluster's service address whose port is a door's.
func TestTransitToAGuardedPortIsAFinding(t *testing.T) {
	p := newPatient(t, ssh)
	p.nft(t, "table ip kube { chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 tcp dport 22 dnat to 10.244.0.5:2022; ip daddr 10.96.0.11 tcp dport 80 dnat to 10.244.0.5:22; }\n }")
	finds(t, p.examine(t, ""), "warning transit ssh 22/tcp ipv4: connections through this host to 10.96.0.10:22, which rule 1 of chain ip kube pre (ip daddr 10.96.0.10 tcp dport 22 dnat to 10.244.0.5:2022) sends on, are shut as well")
	p.cfg.Firewall.Guard.Allow = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	finds(t, p.examine(t, ""), "ok transit ssh 22/tcp ipv4: firewall.allow")
}

func TestTheDoctorFollowsMarks(t *testing.T) {
	p := newPatient(t, ssh)
	p.nft(t, `table inet other {
 chain early { type filter hook prerouting priority 0; meta mark & 0x40000000 == 0x40000000 accept; meta mark 0x7 accept; meta mark & 0xff == 0 accept; }
 chain wipe { type filter hook input priority -10; ct state new meta mark set ct mark; }
 chain late { type filter hook input priority 0; policy drop; meta mark & 0x40000000 == 0x40000000 accept; }
}`)
	r := p.examine(t, "")
	finds(t, r, "warning mark inet other: rule 1 of chain inet other early (meta mark & 0x40000000 == 0x40000000 accept) asks for the mark 0x40000000 at prerouting",
		"fail passes ssh 22/tcp ipv4: the policy of chain inet other late (drop) stops it, after rule 1 of chain inet other wipe (ct state new meta mark set ct mark) has cleared the mark")
	n := 0
	for _, f := range r.Findings {
		if f.Check == "mark" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d rules are said to ask too early\n%s", n, text(r))
	}
}

func TestUntrackedPacketsAreAFinding(t *testing.T) {
	p := newPatient(t, ssh)
	p.nft(t, "table inet other { chain raw { type filter hook prerouting priority raw; tcp dport 22 notrack; }\n }")
	finds(t, p.examine(t, ""), "warning tracking ssh 22/tcp ipv4: rule 1 of chain inet other raw (tcp dport 22 notrack)", "ok passes ssh 22/tcp ipv4")
}

// Not every kernel has flowtables; nftsim's tests show that their rules are found.
func TestAFlowtableBesideADoorThatCutsIsAFinding(t *testing.T) {
	x := &exam{Options: Options{Config: &config.Config{Doors: []firewall.Door{ssh}}}}
	x.flowtable("fast", "rule 1")
	x.Config.Doors = append(x.Config.Doors, wide)
	x.flowtable("slow", "rule 2")
	finds(t, x.report, "ok flowtable fast: rule 1 gives", "warning flowtable slow: cuts those through wide only when the daemon deletes the flow")
}

func TestTheDoctorWarnsOfIngressChains(t *testing.T) {
	p := newPatient(t, ssh)
	p.nft(t, "table netdev early { chain in { type filter hook ingress device eth0 priority 0; tcp dport 22 drop; }\n }")
	finds(t, p.examine(t, ""), "warning ruleset chain netdev early in: not looked at")
}

// Ports are not sampled: one among tens of thousands is found.
func TestTheDoctorFindsOneOpenPortInAWideRange(t *testing.T) {
	p := newPatient(t, ssh, wide)
	p.nft(t, "insert rule inet webknock input udp dport 31337 accept")
	finds(t, p.examine(t, ""), "ok shut wide 6000-31336/udp ipv4", "fail shut wide 31337/udp ipv4: open to strangers", "ok shut wide 31338-60000/udp ipv6: dropped by webknock")
}

func TestConntrackThatForgetsLiveSessionsIsAFinding(t *testing.T) {
	udp := firewall.Door{Name: "vpn", Ports: []firewall.Ports{{Protocol: firewall.UDP, First: 51820, Last: 51820}}}
	x := &exam{Options: Options{Config: &config.Config{Doors: []firewall.Door{ssh, wide, udp}}}}
	values := map[string]int{}
	sysctl := func(file string) (int, bool) { n, ok := values[filepath.Base(file)]; return n, ok }
	values["nf_conntrack_tcp_timeout_established"] = 432000
	values["nf_conntrack_udp_timeout_stream"] = 120
	values["nf_conntrack_count"], values["nf_conntrack_max"] = 10, 1000
	x.conntrack(sysctl)
	if len(x.report.Findings) != 0 {
		t.Errorf("%+v", x.report.Findings)
	}
	values["nf_conntrack_tcp_timeout_established"] = 600
	values["nf_conntrack_udp_timeout_stream"] = 20
	values["nf_conntrack_count"] = 950
	x.conntrack(sysctl)
	finds(t, x.report, "warning conntrack ssh: over tcp that are idle for 10m0s are forgotten", "warning conntrack vpn: over udp that are idle for 20s", "warning conntrack table: 950 of 1000 connections")
}

// A listener on a socket from systemd is looked for among the daemon's own.
func TestTheDoctorFindsAListenerOfSystemd(t *testing.T) {
	p := newPatient(t, ssh)
	p.cfg.Listeners = []config.Listener{{Address: "systemd:knock"}}
	finds(t, p.examine(t, ""), "warning listener systemd:knock ipv4: cannot tell where it listens")
	dir := t.TempDir()
	socket := filepath.Join(dir, "admin.sock")
	// A process that listens on port 8081, and serves the admin socket.
	var r Report
	err := p.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet6{Port: 8081}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 1); err != nil {
			return err
		}
		l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(l)
		if err := unix.Bind(l, &unix.SockaddrUnix{Name: socket}); err != nil {
			return err
		}
		if err := unix.Listen(l, 8); err != nil {
			return err
		}
		x := &exam{Options: Options{Config: p.cfg, API: admin.API{Socket: socket}}}
		if !x.kernel() {
			return fmt.Errorf("%+v", x.report)
		}
		x.open = listening()
		x.listeners(strangers[0])
		r = x.report
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	finds(t, r, "ok listener systemd:knock ipv4: knocks get here")
}
