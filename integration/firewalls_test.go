package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"webknock/integration/lab"
)

// A ruleset is the firewall of some host, and its effect on the door ssh.
type ruleset struct {
	name string
	nft  string
	// untold: the doctor cannot tell whether a grant passes.
	untold bool
}

// input is a filter with a chain at the input hook that drops by default.
func input(rules ...string) string {
	return "table inet filter { chain input { type filter hook input priority 0; policy drop; " +
		"iifname lo accept; ct state established,related accept; tcp dport 8080 accept; " + strings.Join(append(rules, "meta l4proto ipv6-icmp accept"), "; ") + "; } }"
}

// lax is the same, but lets through by default.
func lax(rules ...string) string {
	return "table inet filter { chain input { type filter hook input priority 0; policy accept; " + strings.Join(rules, "; ") + "; } }"
}

const marked = "meta mark and 0x40000000 == 0x40000000 accept"

var rulesets = []ruleset{
	{"no other rules", "", false},
	{"drop by default", input(), false},
	{"drop by default, the mark accepted", input(marked), false},
	{"drop by default, only the mark alone accepted", input("meta mark 0x40000000 accept"), false},
	{"drop by default, the port accepted", input("tcp dport 22 accept"), false},
	{"a later drop", lax("tcp dport 22 drop"), false},
	{"a drop of another port", lax("tcp dport 23 drop"), false},
	{"an accept before a later chain that drops", lax("tcp dport 22 accept") + "table inet late { chain input { type filter hook input priority 10; tcp dport 22 drop; } }", false},
	{"a set of ports", lax("tcp dport { 21, 22, 80 } drop"), false},
	{"a range of ports", lax("tcp dport 20-30 drop"), false},
	{"a set of ranges", lax("tcp dport { 1-21, 23-65535 } drop"), false},
	{"greater than", lax("tcp dport > 21 drop"), false},
	{"a map of verdicts", lax("tcp dport vmap { 22 : drop, 80 : accept }"), false},
	{"a blocked client", lax("ip saddr "+aliceIP+" drop", "ip6 saddr "+aliceIP6+" drop"), false},
	{"another blocked client", lax("ip saddr 10.99.0.1 drop", "ip6 saddr fd99::1 drop"), false},
	{"a set of blocked networks", "table inet filter { set bad { type ipv4_addr; flags interval; elements = { 10.20.0.0/24 } }\n chain input { type filter hook input priority 0; ip saddr @bad tcp dport 22 drop; } }", false},
	{"client and port in one set", lax("ip saddr . tcp dport { " + aliceIP + " . 22 } drop"), false},
	{"the interface", lax(`iifname "eth0" tcp dport 22 drop`), false},
	{"interfaces by a prefix", lax(`iifname "eth*" tcp dport 22 drop`), false},
	{"another interface", lax(`iifname "eth9" drop`), false},
	{"our address", lax("ip daddr "+serverIP+" tcp dport 22 drop", "ip6 daddr "+serverIP6+" tcp dport 22 drop"), false},
	{"a new connection is rejected", lax("ct state new tcp dport 22 reject with tcp reset"), false},
	{"what is invalid is dropped", lax("ct state invalid drop"), false},
	{"within a limit", input("tcp dport 22 limit rate 100/second accept"), false},
	{"jumps and returns", "table inet filter { chain one { tcp dport 23 drop; return; }\n chain two { tcp dport 22 drop; }\n chain input { type filter hook input priority 0; jump one; jump two; } }", false},
	{"a goto", "table inet filter { chain one { tcp dport 23 drop; }\n chain input { type filter hook input priority 0; goto one; tcp dport 22 drop; } }", false},
	{"for IPv4 alone", "table ip filter { chain input { type filter hook input priority 0; tcp dport 22 drop; } }", false},
	{"for IPv6 alone", "table ip6 filter { chain input { type filter hook input priority 0; tcp dport 22 drop; } }", false},
	{"before the guard", "table inet raw { chain pre { type filter hook prerouting priority -300; tcp dport 22 drop; } }", false},
	{"untracked", "table inet raw { chain pre { type filter hook prerouting priority -300; tcp dport 22 notrack; } }", false},
	{"after the guard, for what has no mark", "table inet post { chain pre { type filter hook prerouting priority -140; tcp dport 22 meta mark and 0x40000000 == 0 drop; } }", false},
	{"the mark is wiped off", "table inet post { chain pre { type filter hook prerouting priority -140; meta mark set 0; } }" + input(marked), false},
	{"the reverse path", "table inet rpf { chain pre { type filter hook prerouting priority -300; fib saddr . iif oif missing drop; } }", false},
	{"forwarding is dropped", "table inet filter { chain forward { type filter hook forward priority 0; policy drop; } }", false},
	{"the source port decides", input("tcp sport 1024-65535 tcp dport 22 accept"), true},
	{"chance decides", lax("tcp dport 22 numgen random mod 1000000 < 1 drop"), true},
	{"a TCP option decides", lax("tcp dport 22 tcp option maxseg size 1-100 drop"), true},
	{"a redirect", "table inet nat { chain pre { type nat hook prerouting priority -100; tcp dport 22 redirect to :22; } }", false},
}

// judged is what the doctor says of the door ssh: ok, warning or fail.
func (w *world) judged(args ...string) map[string]string {
	w.t.Helper()
	out, stderr, _ := w.webknock(append([]string{"doctor", "-o", "json"}, args...)...)
	var report struct {
		Findings []struct{ Check, Subject, Family, Status, Detail string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		w.t.Fatalf("doctor: %v\n%s%s", err, out, stderr)
	}
	said := map[string]string{}
	for _, f := range report.Findings {
		if strings.HasPrefix(f.Subject, "ssh 22/tcp") {
			said[f.Check+" "+f.Family] = f.Status
			said[f.Check+" "+f.Family+" detail"] = f.Detail
		}
	}
	return said
}

// agree fails unless the doctor judges as packets fare.
func (w *world) agree(name string, untold bool) {
	w.t.Helper()
	for _, f := range []struct{ family, client, server string }{{"ipv4", aliceIP, serverIP}, {"ipv6", aliceIP6, serverIP6}} {
		said := w.judged("--from", f.client)
		stranger := w.passes(w.alice, f.server, 22)
		w.must("open", "ssh", f.client)
		granted := w.passes(w.alice, f.server, 22)
		w.must("close", "--client", f.client)
		shut := map[bool]string{true: "fail", false: "ok"}[stranger]
		if said["shut "+f.family] != shut {
			w.t.Errorf("%s, %s: a stranger passes: %v, and the doctor says of shut: %s, %s", name, f.family, stranger, said["shut "+f.family], said["shut "+f.family+" detail"])
		}
		passes := map[bool]string{true: "ok", false: "fail"}[granted]
		if untold {
			passes = "warning"
		}
		if said["passes "+f.family] != passes {
			w.t.Errorf("%s, %s: a grant passes: %v, and the doctor says of passes: %s, %s", name, f.family, granted, said["passes "+f.family], said["passes "+f.family+" detail"])
		}
	}
}

func TestTheDoctorJudgesAsPacketsFare(t *testing.T) {
	const parts = 4 // at once
	for part := range parts {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			var some []ruleset
			for i := part; i < len(rulesets); i += parts {
				some = append(some, rulesets[i])
			}
			judge(t, some)
		})
	}
}

func judge(t *testing.T, rulesets []ruleset) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	table := filepath.Join(w.dir, "rules.nft")
	for _, r := range rulesets {
		if err := os.WriteFile(table, []byte(strings.NewReplacer("} }table", "}; }\ntable", "} }", "}; }").Replace(r.nft)), 0o600); err != nil {
			t.Fatal(err)
		}
		w.nft("-f", table)
		w.agree(r.name, r.untold)
		for line := range strings.Lines(w.nft("list", "tables")) {
			if family, name, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "table ")), " "); ok && name != "webknock" {
				w.nft("delete", "table", family, name)
			}
		}
	}
}

func TestTheDoctorSeesDoorsThatAreOpen(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard + "firewall: {mode: sets}\n")
	table := filepath.Join(w.dir, "rules.nft")
	for _, r := range rulesets[:9] {
		if err := os.WriteFile(table, []byte(strings.NewReplacer("} }table", "}; }\ntable", "} }", "}; }").Replace(r.nft)), 0o600); err != nil {
			t.Fatal(err)
		}
		w.nft("-f", table)
		w.agree("mode sets, "+r.name, false)
		if r.nft != "" {
			w.nft("delete", "table", "inet", "filter")
		}
		w.server.Command(t.Context(), "nft", "delete", "table", "inet", "late").Run()
	}
	w.daemon.stop(t, syscall.SIGTERM)
	w.must("unguard")
	if said := w.judged("--from", aliceIP); said["shut ipv4"] != "fail" {
		t.Errorf("nothing is guarded, and the doctor says %v", said)
	}
	if out, _, code := w.webknock("doctor"); code != 1 || !strings.Contains(out, "there is no such table") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestTheProbeTriesADoorWithPackets(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	out := w.must("doctor", "--probe", "ssh")
	for _, want := range []string{"without a grant: silent", "with a grant: open", "after closing: silent"} {
		if strings.Count(out, want) != 2 { // IPv4 and IPv6
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	w.mustHold()
	if links, err := w.server.Command(t.Context(), "ip", "link").CombinedOutput(); err != nil || strings.Contains(string(links), "probe") {
		t.Errorf("left over: %v\n%s", err, links)
	}
	w.nft("add table inet late; add chain inet late input { type filter hook input priority 10; }; add rule inet late input tcp dport 22 drop")
	out, _, code := w.webknock("doctor", "--probe", "ssh")
	if code != 1 || !strings.Contains(out, "with a grant: silent, it does not get through") {
		t.Errorf("exit %d\n%s", code, out)
	}
	w.mustHold()
	if _, stderr, code := w.webknock("doctor", "--probe", "cellar"); code != 1 || !strings.Contains(stderr, "no door") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// The whole path beside a Docker-like published port: strangers are kept from
// it, and a grant gets through to the other host.
func TestADoorInFrontOfAPublishedPort(t *testing.T) {
	w := newWorld(t)
	inner := w.inner()
	w.listenOn(inner, 22)
	w.serve(standard)
	w.nft(fmt.Sprintf("add table ip nat; add chain ip nat PREROUTING { type nat hook prerouting priority -100; }; add rule ip nat PREROUTING fib daddr type local tcp dport 22 dnat to %s:22", innerIP))
	said := w.judged("--from", aliceIP)
	if said["shut ipv4"] != "ok" || said["passes ipv4"] != "ok" || !strings.Contains(said["passes ipv4 detail"], innerIP+":22") {
		t.Errorf("the doctor says %v", said)
	}
	w.wholePath()
}

// iptables-nft with a default of DROP, and the mark accepted.
func TestDoorsBesideIPTables(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	run := func(command string) {
		t.Helper()
		args := strings.Fields(command)
		if err := w.server.Run(args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	run("ip6tables -A INPUT -p icmpv6 -j ACCEPT") // neighbours are looked for by multicast
	for _, tables := range []string{"iptables", "ip6tables"} {
		run(tables + " -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
		run(tables + " -A INPUT -p tcp -m multiport --dports 80,8080:8090 -m comment --comment knocks -j ACCEPT")
		run(tables + " -A INPUT -m addrtype ! --dst-type LOCAL -j DROP")
	}
	for _, tables := range []string{"iptables", "ip6tables"} {
		run(tables + " -P INPUT DROP")
	}
	w.agree("iptables, DROP by default", false)
	for _, tables := range []string{"iptables", "ip6tables"} {
		run(tables + " -A INPUT -m mark --mark 0x40000000/0x40000000 -j ACCEPT")
	}
	w.agree("iptables, the mark accepted", false)
	w.wholePath()
}

// wholePath knocks, and tries the door before, in between and after.
func (w *world) wholePath() {
	w.t.Helper()
	w.mustPass(w.alice, serverIP, 22, false)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
	w.must("close", "--all")
	w.mustPass(w.alice, serverIP, 22, false)
}

// ufw as users have it, through enable, reload, disable and reset.
func TestDoorsBesideUFW(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	// What it writes to, as the package brings it.
	rules, err := filepath.Glob("/usr/share/ufw/iptables/*.rules")
	if err != nil || len(rules) == 0 {
		t.Fatalf("ufw's own rules: %v, %v", rules, err)
	}
	etc := t.TempDir()
	if err := errors.Join(
		os.Mkdir(filepath.Join(etc, "applications.d"), 0o755),
		lab.PrivateCopy("/etc/ufw", etc, append(rules, "/usr/share/ufw/before.init", "/usr/share/ufw/after.init", "/usr/share/ufw/ufw.conf", "/etc/ufw/sysctl.conf")...),
		lab.PrivateCopy("/etc/default", t.TempDir(), "/etc/default/ufw"),
		lab.PrivateCopy("/lib/ufw", t.TempDir(), "/lib/ufw/ufw-init", "/lib/ufw/ufw-init-functions"),
	); err != nil {
		t.Fatal(err)
	}
	w.serve(standard)
	ufw := func(args ...string) {
		t.Helper()
		if out, err := w.server.Command(t.Context(), "ufw", args...).CombinedOutput(); err != nil {
			t.Fatalf("ufw %v: %v\n%s", args, err, out)
		}
	}
	ufw("allow", "8080/tcp")
	ufw("--force", "enable")
	w.agree("ufw, deny by default", false)
	for file, chain := range map[string]string{"/etc/ufw/before.rules": "ufw-before-input", "/etc/ufw/before6.rules": "ufw6-before-input"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lo := "-A " + chain + " -i lo -j ACCEPT\n"
		mark := "-A " + chain + " -m mark --mark 0x40000000/0x40000000 -j ACCEPT\n"
		if !strings.Contains(string(text), lo) {
			t.Fatalf("%s has no line %q", file, lo)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(text), lo, lo+mark, 1)), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	ufw("reload")
	w.agree("ufw, the mark accepted", false)
	w.wholePath()
	ufw("disable")
	w.wholePath()
	ufw("--force", "reset")
	w.wholePath()
}
