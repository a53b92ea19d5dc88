//go:build hosts

package hosts

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// The poll sees a port that is open: without the guard.
func TestAPollOfABootSeesOpenPorts(t *testing.T) {
	m := newMachine(t, standard)
	m.onDisk("systemctl", "--quiet", "--root="+m.Root, "disable", "webknock.service", "webknock-guard.service")
	p := startPoll(t, m.mallory, ssh...)
	m.boot()
	until(t, "the poll gets a session by IPv4 and by IPv6", func() bool {
		_, sessions := p.seen()
		families := map[bool]bool{}
		for _, s := range sessions {
			families[s.address.Addr().Is6()] = true
		}
		return len(families) == 2
	})
	if _, sessions := p.seen(); living(sessions) == 0 {
		t.Error("none of the sessions lives, though nothing is guarded")
	}
}

func TestABootNeverOpensADoor(t *testing.T) {
	m := newMachine(t, standard)
	p := startPoll(t, m.mallory, ssh...)
	m.boot()
	m.works()
	m.reboot("running")
	m.works()
	m.neverOpen(p)
}

const accepting = `#!/usr/sbin/nft -f
flush ruleset
table inet filter {
	chain input { type filter hook input priority filter; policy accept; }
}
`

// Whatever is done to nftables.service, which flushes the ruleset, while no
// daemon repairs: when systemctl returns, the door is shut, and no session from
// between lives.
func TestNftablesBringsTheGuardBack(t *testing.T) {
	for name, commands := range map[string][][]string{
		"restart":        {{"restart", "nftables"}},
		"reload":         {{"reload", "nftables"}},
		"stop and start": {{"stop", "nftables"}, {"start", "nftables"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, standard)
			m.write("/etc/nftables.conf", accepting)
			m.onDisk("systemctl", "--quiet", "--root="+m.Root, "enable", "nftables.service")
			m.boot()
			m.works()
			m.run("systemctl", "stop", "webknock")
			p := startPoll(t, m.mallory, ssh...)
			late := 0
			for range 10 {
				for _, args := range commands {
					m.run("systemctl", append([]string{"--quiet"}, args...)...)
				}
				returned := time.Now()
				m.run("systemctl", "reset-failed", "nftables") // no more than five restarts in ten seconds
				p.settle()
				_, sessions := p.seen()
				for _, s := range sessions {
					if s.asked.After(returned) {
						late++
					}
				}
			}
			asked, sessions := p.seen()
			t.Logf("10 times: %d SYNs, %d of them answered before systemctl had returned and %d after", asked, len(sessions)-late, late)
			if late > 0 {
				t.Errorf("open after systemctl had returned")
			}
			if n := living(sessions); n > 0 {
				t.Errorf("%d of the sessions that began while nothing was guarded live", n)
			}
			m.run("systemctl", "start", "webknock")
			m.works()
		})
	}
}

// A reboot stops nftables.service, which flushes the ruleset, while sshd may
// still listen.
func TestAShutdownNeverOpensADoor(t *testing.T) {
	m := newMachine(t, standard)
	m.write("/etc/nftables.conf", accepting)
	m.onDisk("systemctl", "--quiet", "--root="+m.Root, "enable", "nftables.service")
	m.boot()
	p := startPoll(t, m.mallory, ssh...)
	for range 3 {
		m.reboot("running")
	}
	m.works()
	m.neverOpen(p)
}

// Lines of the journal have their priority and no time of their own.
func TestTheJournalKnowsPriorities(t *testing.T) {
	m := newMachine(t, standard)
	m.boot()
	m.works()
	for line := range strings.Lines(m.run("journalctl", "-u", "webknock", "-o", "json", "--no-pager")) {
		var entry struct{ MESSAGE, PRIORITY, SYSLOG_IDENTIFIER string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if entry.SYSLOG_IDENTIFIER != "webknock" {
			continue
		}
		if strings.Contains(entry.MESSAGE, "time=") || strings.Contains(entry.MESSAGE, "level=") || strings.HasPrefix(entry.MESSAGE, "{") || strings.HasPrefix(entry.MESSAGE, "<") {
			t.Errorf("in the journal: %s", entry.MESSAGE)
		}
		if strings.Contains(entry.MESSAGE, "grant opened door=ssh client="+aliceIP) && entry.PRIORITY != "6" {
			t.Errorf("priority %s: %s", entry.PRIORITY, entry.MESSAGE)
		}
	}
	if out := m.run("journalctl", "-u", "webknock", "-p", "warning", "--no-pager", "-o", "cat"); strings.Contains(out, "grant opened") {
		t.Errorf("among the warnings:\n%s", out)
	}
	if out := m.run("journalctl", "-u", "webknock", "--no-pager", "-o", "cat"); !strings.Contains(out, "grant opened door=ssh client="+aliceIP) {
		t.Errorf("no opening in\n%s", out)
	}
	m.run("nft", "flush", "ruleset") // of which the log warns
	until(t, "the repair is among the warnings", func() bool {
		out := m.run("journalctl", "-u", "webknock", "-p", "warning", "--no-pager", "-o", "cat")
		return strings.Contains(out, "guard repaired")
	})
	// What ends a command is an error.
	m.write("/etc/webknock/webknock.yaml", "doors: [")
	if _, _, code := m.try("systemctl", "reload", "webknock"); code == 0 {
		t.Error("systemctl reload of a file with errors says that it is done")
	}
	if out := m.run("journalctl", "-u", "webknock", "-p", "err", "--no-pager", "-o", "cat"); !strings.Contains(out, "webknock: ") || !strings.Contains(out, "/etc/webknock/webknock.yaml:") {
		t.Errorf("no error of the reload among the errors:\n%s", out)
	}
	m.works() // what was in force still is
}

// A file that was broken after it had been in force boots with what was in force
// last: shut, and open to those who knock.
func TestABrokenFileBootsShutAndServes(t *testing.T) {
	m := newMachine(t, standard)
	m.write("/etc/nftables.conf", accepting)
	m.onDisk("systemctl", "--quiet", "--root="+m.Root, "enable", "nftables.service")
	m.boot()
	m.works()
	p := startPoll(t, m.mallory, ssh...)
	for name, text := range map[string]string{
		"a typo":                strings.Replace(standard, "ports:", "port:", 1),
		"no YAML":               "doors: [",
		"a missing certificate": strings.Replace(standard, `address: ":8080"`, "address: \":8080\"\n    tls: {certificate: /nowhere.pem, key: /nowhere.key}", 1),
		"empty":                 "",
	} {
		t.Log(name)
		m.write("/etc/webknock/webknock.yaml", text)
		m.reboot("degraded") // the guard's unit has failed, and says why
		if out, _, _ := m.try("systemctl", "status", "--no-pager", "webknock-guard"); !strings.Contains(out, "/etc/webknock/webknock.yaml") {
			t.Errorf("the guard's unit does not say what is wrong:\n%s", out)
		}
		if out, _, _ := m.try("webknock", "status"); !strings.Contains(out, "degraded") {
			t.Errorf("status:\n%s", out)
		}
		m.works()
	}
	m.neverOpen(p)
	m.write("/etc/webknock/webknock.yaml", standard)
	m.reboot("running")
	m.works()
}

// ufw, as its own unit starts it.
func TestABootWithUFWNeverOpensADoor(t *testing.T) {
	m := newMachine(t, standard)
	m.boot()
	for _, args := range [][]string{{"allow", "8080/tcp"}, {"allow", "22/tcp"}, {"--force", "enable"}} {
		m.run("ufw", args...)
	}
	m.works()
	p := startPoll(t, m.mallory, ssh...)
	for range 2 {
		m.reboot("running")
		if out := m.run("ufw", "status"); !strings.Contains(out, "Status: active") {
			t.Errorf("ufw does not run: %s", out)
		}
		m.works()
	}
	m.run("systemctl", "stop", "webknock")
	for _, command := range []string{"restart", "stop", "start"} {
		m.run("systemctl", command, "ufw")
	}
	m.run("systemctl", "start", "webknock")
	m.works()
	m.neverOpen(p)
}

// A trial by a drop-in: what was confirmed boots without one.
func TestATrialByADropIn(t *testing.T) {
	m := newMachine(t, standard)
	m.write("/etc/systemd/system/webknock.service.d/trial.conf", "[Service]\nEnvironment=WEBKNOCK_CONFIRM=1h\n")
	m.boot()
	m.works()
	if out := m.run("webknock", "status"); !strings.Contains(out, "confirm") {
		t.Errorf("no trial:\n%s", out)
	}
	m.run("webknock", "confirm")
	p := startPoll(t, m.mallory, ssh...)
	m.reboot("running")
	if out := m.run("webknock", "status"); strings.Contains(out, "confirm") {
		t.Errorf("a trial of what was confirmed:\n%s", out)
	}
	m.works()
	m.neverOpen(p)
}
