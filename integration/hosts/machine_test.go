//go:build hosts

package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"webknock/integration/lab"
)

const (
	serverIP, serverIP6   = "10.20.0.1", "fd20::1"
	aliceIP, aliceIP6     = "10.20.0.2", "fd20::2"
	malloryIP, malloryIP6 = "10.20.0.3", "fd20::3"
)

var ssh = []netip.AddrPort{netip.MustParseAddrPort(serverIP + ":22"), netip.MustParseAddrPort("[" + serverIP6 + "]:22")}

// hosts are a server, a client and a stranger.
type hosts struct {
	t                      *testing.T
	server, alice, mallory *lab.Host
}

func newHosts(t *testing.T) *hosts {
	t.Helper()
	t.Parallel()
	n, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	host := func(name string, addresses ...string) *lab.Host {
		h, err := n.Host(name, addresses...)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	return &hosts{t, host("server", serverIP+"/24", serverIP6+"/64"), host("alice", aliceIP+"/24", aliceIP6+"/64"), host("mallory", malloryIP+"/24", malloryIP6+"/64")}
}

// passes reports whether a TCP connection from a host is accepted.
func (h *hosts) passes(from *lab.Host, to string, port int) bool {
	return from.Do(func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(to, fmt.Sprint(port)), 700*time.Millisecond)
		if err == nil {
			conn.Close()
		}
		return err
	}) == nil
}

func (h *hosts) mustPass(from *lab.Host, to string, port int, want bool) {
	h.t.Helper()
	if got := h.passes(from, to, port); got != want {
		h.t.Errorf("%s to %s port %d: passes %v, want %v", from.Name, to, port, got, want)
	}
}

// knock requests paths one after the other, and fails if a byte comes back.
func (h *hosts) knock(from *lab.Host, to string, paths ...string) {
	h.t.Helper()
	for _, path := range paths {
		out, err := from.Command(h.t.Context(), "curl", "--silent", "--include", "--max-time", "10", "http://"+net.JoinHostPort(to, "8080")+path).CombinedOutput()
		if exit, ok := err.(*exec.ExitError); len(out) > 0 || !ok || exit.ExitCode() != 56 { // reset by the peer
			h.t.Fatalf("curl %s: %v, output %q; want a reset and no byte", path, err, out)
		}
	}
}

// until polls a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// machine is a booted Debian as the server.
type machine struct {
	*hosts
	*lab.Machine
}

// debian is the tree that all machines share.
const debian = ".debian"

const standard = `
listeners:
  - address: ":8080"
doors:
  - name: ssh
    ports: [22/tcp]
    ttl: 30s
sequences:
  - name: ssh
    steps: [/a, /b, /c]
    opens: [ssh]
`

// newMachine installs webknock with this configuration as its documents say,
// with both units enabled, and does not boot yet.
func newMachine(t *testing.T, config string) *machine {
	t.Helper()
	m := newBareMachine(t)
	m.onDisk("make", "-C", "../..", "--silent", "install", "DESTDIR="+m.Root)
	m.onDisk("install", "-m", "0755", binary, m.Root+"/usr/local/bin/webknock")
	m.onDisk("systemd-sysusers", "--root="+m.Root, m.Root+"/usr/local/lib/sysusers.d/webknock.conf")
	m.write("/etc/webknock/webknock.yaml", config)
	m.onDisk("systemctl", "--quiet", "--root="+m.Root, "enable", "webknock.service", "webknock-guard.service")
	return m
}

// newBareMachine has no webknock, and is not booted yet.
func newBareMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{hosts: newHosts(t)}
	tree, err := filepath.Abs(debian)
	if err == nil {
		_, err = os.Stat(tree)
	}
	if err != nil {
		t.Fatalf("%v (make test-hosts makes it)", err)
	}
	if m.Machine, err = m.server.Machine(tree, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.Command(context.Background(), "journalctl", "-b", "--no-pager", "-o", "short-monotonic", "-u", "webknock*", "-u", "nftables", "-n", "60").CombinedOutput()
			t.Logf("the journal:\n%s\nthe console:\n%s", out, m.Console())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// write writes a file of the machine, mode 0600; one of webknock's group can be read by
// that too.
func (m *machine) write(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.Root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if strings.HasPrefix(path, filepath.Join(m.Root, "etc/webknock")) {
		group := m.groupID("webknock")
		if err := errors.Join(os.Chown(path, 0, group), os.Chmod(path, 0o640)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// groupID returns the number of a group of the machine.
func (m *machine) groupID(name string) int {
	m.t.Helper()
	groups, err := os.ReadFile(filepath.Join(m.Root, "etc/group"))
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(groups)) {
		if f := strings.Split(line, ":"); f[0] == name {
			id, err := strconv.Atoi(f[2])
			if err != nil {
				m.t.Fatal(err)
			}
			return id
		}
	}
	m.t.Fatalf("the machine has no group %s", name)
	return 0
}

// onDisk runs a command here, on the machine's files.
func (m *machine) onDisk(name string, args ...string) {
	m.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// boot boots and waits until the machine runs.
func (m *machine) boot() {
	m.t.Helper()
	if err := m.Boot(); err != nil {
		m.t.Fatal(err)
	}
	m.booted("running")
}

// booted waits until the latest boot is through.
func (m *machine) booted(want string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	state, err := m.Booted(ctx, m.Boots())
	if err != nil {
		m.t.Fatal(err)
	}
	if state != want {
		m.t.Errorf("the machine is %s, want %s\n%s", state, want, m.run("systemctl", "--failed", "--no-pager"))
	}
}

// reboot boots again, from inside.
func (m *machine) reboot(want string) {
	m.t.Helper()
	n := m.Boots()
	m.Command(m.t.Context(), "systemctl", "reboot").Run()
	until(m.t, "the machine boots again", func() bool { return m.Boots() > n })
	m.booted(want)
}

// run runs a command inside, which must succeed, and returns its output.
func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	out, errs, code := m.try(name, args...)
	if code != 0 {
		m.t.Fatalf("%s %v: exit %d\n%s%s", name, args, code, out, errs)
	}
	return out
}

// try runs a command inside.
func (m *machine) try(name string, args ...string) (stdout, stderr string, code int) {
	m.t.Helper()
	cmd := m.Command(m.t.Context(), name, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		m.t.Fatalf("%s %v: %v", name, args, err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// works knocks as alice, who gets in, and the stranger does not.
func (m *machine) works() {
	m.t.Helper()
	for _, a := range []string{serverIP, serverIP6} {
		m.mustPass(m.alice, a, 22, false)
		m.knock(m.alice, a, "/a", "/b", "/c")
		until(m.t, "the door opens", func() bool { return m.passes(m.alice, a, 22) })
		m.mustPass(m.mallory, a, 22, false)
	}
	m.run("webknock", "close", "--all")
	m.mustPass(m.alice, serverIP, 22, false)
}

// neverOpen fails if the poll got a session.
func (m *machine) neverOpen(p *poll) {
	m.t.Helper()
	asked, sessions := p.seen()
	if asked < 200 {
		m.t.Errorf("the poll has asked %d times, which says nothing", asked)
	}
	if len(sessions) > 0 {
		m.t.Errorf("the door was open: %d of %d SYNs were answered, the first to %v", len(sessions), asked, sessions[0].address)
	}
	m.t.Logf("%d SYNs, none answered; %d refused", asked, p.refused)
}
