//go:build hosts

package hosts

import (
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
// daemon repairs: when systemctl returns, the door is shut.
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
