package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

// busy is the status of a host that has something of everything.
func busy() statusView {
	s, _ := steady{}.Status(context.Background())
	confirmBy := noon.Add(90 * time.Second)
	s.Problems = admin.List[string]{
		"the file on disk is not what runs, because it has errors that were found when it was read again (mend it, then webknock reload)",
		"the guard was taken away",
	}
	s.ConfirmBy = &confirmBy
	s.StartedAt = noon.Add(-27 * time.Hour)
	s.Listeners = append(s.Listeners, admin.Listener{Address: "systemd:knock", TLS: true, Cover: "proxy http://127.0.0.1:8081", Bound: "[::]:443", Connections: 120, Knocks: 48211})
	s.Doors[0].Grants = 6
	s.Doors = append(s.Doors, admin.Door{
		Name: "files", MaxGrants: 16, TTL: 3600,
		Ports: strings.Fields(strings.Repeat("1000/tcp 2000-2100/udp ", 5)),
	})
	s.Clients, s.Shield.Bans, s.Grants = 5, 3, 6
	s.Lost = admin.Counts{"knocks": 0, "heads_too_large": 12, "wrong_codes": 3}
	s.Processes = []admin.Process{
		{Name: "keeper", PID: 41, User: "root"},
		{Name: "front", PID: 42, User: "webknock", Confined: admin.List[string]{"user", "landlock"}, Warnings: admin.List[string]{"no seccomp: the kernel is too old"}},
	}
	v := statusView{Status: s, now: noon}
	for i, client := range []string{"192.0.2.7", "2001:db8:1:2:3:4:5:6", "192.0.2.9", "192.0.2.10", "192.0.2.11", "192.0.2.12"} {
		left := time.Duration(60-10*i) * time.Second
		g := admin.Grant{Door: "ssh", Client: client, ExpiresAt: noon.Add(left), Remaining: left.Seconds()}
		switch i {
		case 0:
			g.User = "alice"
		case 1:
			g.Sequence = "way"
		}
		v.grants = append(v.grants, g)
	}
	for _, client := range []string{"192.0.2.20", "192.0.2.21", "192.0.2.22", "192.0.2.23", "192.0.2.24"} {
		v.clients = append(v.clients, admin.Client{Client: client, Sequence: "way", Step: 1, Steps: 3, ExpiresAt: noon.Add(9 * time.Second)})
	}
	for _, client := range []string{"192.0.2.66", "2001:db8:66::/64", "192.0.2.67"} {
		v.bans = append(v.bans, admin.Ban{Client: client, Remaining: 61})
	}
	return v
}

const busyScreen = `
webknock 1.0: degraded, up 1d 3h (since 2030-01-01 09:00:00)
problem: the file on disk is not what runs, because it has errors that were
  found when it was read again
  to do: mend it, then webknock reload
problem: the guard was taken away
  to do: run webknock reload to guard the doors again, and webknock confirm if
    it asks for that
undone in 1m30s, at 12:01:30, unless webknock confirm follows
firewall nftables, mode guard: doors are not guarded

LISTENER                  TLS  COVER                        OPEN  KNOCKS
:8080                     no   drop                         2     19
systemd:knock ([::]:443)  yes  proxy http://127.0.0.1:8081  120   48211

DOOR   GRANTS     TTL     PORTS
ssh    6 of 1024  30s     22/tcp 60000-61000/udp
  192.0.2.7             alice  1m0s left, until 12:01:00
  2001:db8:1:2:3:4:5:6  [way]  50s left, until 12:00:50
  192.0.2.9             admin  40s left, until 12:00:40
  and 3 more (webknock grants)
files  0 of 16    1h0m0s  1000/tcp 2000-2100/udp 1000/tcp 2000-2100/udp 1000/tcp
                          2000-2100/udp 1000/tcp 2000-2100/udp 1000/tcp
                          2000-2100/udp

SEQUENCE  STEPS  COMPLETIONS
ssh       3      7

in progress   192.0.2.20 way 1/3 (9s left), 192.0.2.21 way 1/3 (9s left),
              192.0.2.22 way 1/3 (9s left), and 2 more (webknock clients)
banned        192.0.2.66 (1m1s left), 2001:db8:66::/64 (1m1s left), and 1 more
              (webknock bans)
refused/lost  12 heads too large, 3 wrong codes
processes     keeper 41 as root, front 42 as webknock, confined (user landlock);
              no seccomp: the kernel is too old
`

func TestStatusIsOneScreen(t *testing.T) {
	utc(t)
	v := busy()
	if got := "\n" + strings.Join(v.lines(), "\n") + "\n"; got != busyScreen {
		t.Errorf("status:%s\nwant:%s", got, busyScreen)
	}
	for _, line := range v.lines() {
		if tty.Width(line) > 80 {
			t.Errorf("%d columns: %s", tty.Width(line), line)
		}
	}
}

// Colours only stress what the words say.
func TestStatusSaysTheSameWithoutColours(t *testing.T) {
	utc(t)
	v := busy()
	v.colours = true
	coloured := strings.Join(v.lines(), "\n")
	for _, code := range []string{"1;31", "1", "33", ""} {
		if !strings.Contains(coloured, "\x1b["+code+"m") {
			t.Errorf("no colour %q", code)
		}
		coloured = strings.ReplaceAll(coloured, "\x1b["+code+"m", "")
	}
	if "\n"+coloured+"\n" != busyScreen {
		t.Errorf("status:\n%s", coloured)
	}
}

// Nothing that somebody else may have chosen reaches the terminal as an order to it.
func TestStatusHasNoControlCharacters(t *testing.T) {
	const evil = "\x1b]0;x\x07\x1b[2J\r\u202e\u009b1m"
	v := busy()
	v.Version, v.Problems = "1"+evil, admin.List[string]{evil + "x (" + evil + ")"}
	v.Listeners[0] = admin.Listener{Address: "a" + evil, Cover: "c" + evil, Bound: evil}
	v.Doors[0].Ports = append(v.Doors[0].Ports, "1"+evil)
	v.Sequences[0].Name += evil
	for i := range v.grants {
		v.grants[i].Client += evil
		v.grants[i].User += evil
	}
	for i := range v.clients {
		v.clients[i].Client += evil
		v.clients[i].Sequence += evil
	}
	v.bans[0].Client += evil
	v.Lost["a"+evil] = 1
	v.Processes[0].User += evil
	for _, line := range v.lines() {
		if tty.Clean(line) != line {
			t.Errorf("%q", line)
		}
	}
}

func utc(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
}
