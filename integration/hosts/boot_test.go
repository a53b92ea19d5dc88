//go:build hosts

package hosts

import "testing"

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
