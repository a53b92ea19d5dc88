// Package integration tests the built program from outside: between hosts in
// network namespaces, with real curl, ssh, sshd, nft and nmap.
package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"webknock/integration/lab"
)

var binary string // the program under test

func TestMain(m *testing.M) {
	lab.Enter()
	os.Exit(func() int {
		err := lab.Need("apache2", "caddy", "curl", "haproxy", "ip", "iptables", "nft", "nginx", "openssl", "nmap", "nsenter", "prlimit", "ssh", "ssh-keygen", "/usr/sbin/sshd", "sysctl", "tinyproxy", "ufw")
		if err == nil {
			err = lab.PrivateRun()
		}
		if err == nil {
			err = lab.ReadOnly("/etc", "/usr", "/var")
		}
		if err == nil {
			err = lab.PrivateEmpty("/var/lib/nginx") // where it buffers
		}
		if err == nil { // whatever the host has, sshd lets root in by its key
			err = lab.PrivateFile("/etc/shadow", "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n")
		}
		if err == nil {
			err = lab.PrivateFile("/etc/hosts", hostsFile)
		}
		dir := ""
		if err == nil {
			dir, err = os.MkdirTemp("", "webknock-test-")
		}
		if err == nil {
			defer os.RemoveAll(dir)
			binary = filepath.Join(dir, "webknock")
			build := exec.Command("go", "build", "-o", binary, "../cmd/webknock")
			build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released
			build.Stderr = os.Stderr
			err = build.Run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// The addresses of the hosts.
const (
	serverIP, serverIP6 = "10.20.0.1", "fd20::1"
	aliceIP, aliceIP6   = "10.20.0.2", "fd20::2"
	malloryIP           = "10.20.0.3"
)

// world is a server, a client and a stranger.
type world struct {
	t                      testing.TB
	net                    *lab.Net
	server, alice, mallory *lab.Host
	dir                    string // configuration, socket, keys
	daemon                 *process
	env                    []string       // of commands, besides this process's
	completed              map[string]int // when completions was asked
}

// process is a command that runs, and what it has logged.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	log  []string
	more chan struct{} // a line has come
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel() // it has the world to itself
	return worldOf(t)
}

func worldOf(t testing.TB) *world {
	t.Helper()
	n, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, net: n, dir: t.TempDir(), completed: map[string]int{}}
	host := func(name string, addresses ...string) *lab.Host {
		h, err := n.Host(name, addresses...)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	w.server = host("server", serverIP+"/24", serverIP6+"/64")
	w.alice = host("alice", aliceIP+"/24", aliceIP6+"/64")
	w.mallory = host("mallory", malloryIP+"/24", "fd20::3/64")
	return w
}

const standard = `
listeners:
  - address: ":8080"
doors:
  - name: ssh
    ports: [22/tcp]
    ttl: 30s
  - name: web
    ports: [8000-8010/tcp, 5000/udp]
    ttl: 3s
sequences:
  - name: ssh
    steps: [/a, /b, /c]
    opens: [ssh]
  - name: web
    steps: [/a, /x]
    strict: false
    opens: [web]
`

func (w *world) configure(text string) {
	w.t.Helper()
	text += "\nadmin: {socket: " + w.dir + "/webknock.sock}\n"
	if !strings.Contains(text, "\nstate:") {
		text += "state: " + w.dir + "/state\n"
	}
	if err := os.WriteFile(w.config(), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config() string { return filepath.Join(w.dir, "webknock.yaml") }

// serve starts the daemon and waits until it serves.
func (w *world) serve(text string) {
	w.t.Helper()
	w.configure(text)
	w.daemon = w.start(w.server.Command(context.Background(), binary, "serve", "--config", w.config()))
	w.daemon.wait(w.t, `"serving"`)
}

// start starts a command that is killed when the test ends.
func (w *world) start(cmd *exec.Cmd) *process {
	w.t.Helper()
	p := &process{cmd: cmd, done: make(chan struct{}), more: make(chan struct{}, 1)}
	out, in := io.Pipe()
	cmd.Stderr = in
	cmd.WaitDelay = 5 * time.Second // for what may still hold its standard error
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.mu.Lock()
			p.log = append(p.log, s.Text())
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
		}
		io.Copy(io.Discard, out)
	}()
	go func() {
		err := cmd.Wait()
		in.Close()
		<-read
		if errors.Is(err, exec.ErrWaitDelay) {
			p.mu.Lock()
			p.log = append(p.log, "the test: something still holds the standard error of a process that has ended")
			p.mu.Unlock()
		}
		close(p.done)
	}()
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
		if w.t.Failed() {
			w.t.Logf("log of %v:\n%s", cmd.Args, strings.Join(p.lines(), "\n"))
		}
	})
	return p
}

func (p *process) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.log...)
}

const patience = 20 * time.Second

// wait waits until a line of the log holds text.
func (p *process) wait(t testing.TB, text string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		if strings.Contains(strings.Join(p.lines(), "\n"), text) {
			return
		}
		select {
		case <-p.more:
		case <-p.done:
			if !strings.Contains(strings.Join(p.lines(), "\n"), text) {
				t.Fatalf("the process has ended without %s:\n%s", text, strings.Join(p.lines(), "\n"))
			}
		case <-deadline:
			t.Fatalf("no %s in:\n%s", text, strings.Join(p.lines(), "\n"))
		}
	}
}

// stop sends a signal and waits for the end.
func (p *process) stop(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("the process does not end on %v", signal)
	}
}

// until polls a condition.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// knock requests paths one after the other with curl, and fails if a byte comes
// back.
func (w *world) knock(from *lab.Host, to string, paths ...string) {
	w.t.Helper()
	for _, path := range paths {
		out, err := from.Command(w.t.Context(), "curl", "--silent", "--include", "--max-time", "10", "--path-as-is", "http://"+net.JoinHostPort(to, "8080")+path).CombinedOutput()
		exit, ok := err.(*exec.ExitError)
		if len(out) > 0 || !ok || exit.ExitCode() != 56 { // reset by the peer
			w.t.Fatalf("curl %s: %v, output %q; want a reset and no byte", path, err, out)
		}
	}
}

// passes reports whether a TCP connection from a host is accepted.
func (w *world) passes(from *lab.Host, to string, port int) bool {
	return w.dial(from, to, port) == nil
}

func (w *world) dial(from *lab.Host, to string, port int) error {
	return from.Do(func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(to, fmt.Sprint(port)), 700*time.Millisecond)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

func (w *world) mustPass(from *lab.Host, to string, port int, want bool) {
	w.t.Helper()
	if err := w.dial(from, to, port); (err == nil) != want {
		w.t.Errorf("%s to %s port %d: passes %v, want %v (%v)", from.Name, to, port, !want, want, err)
	}
}

// listen accepts TCP connections on a port of the server.
func (w *world) listen(port int) {
	w.t.Helper()
	w.listenOn(w.server, port)
}

func (w *world) listenOn(host *lab.Host, port int) {
	w.t.Helper()
	w.echo(host, "tcp", fmt.Sprint(":", port))
}

// echo has a host send back what it receives at an address.
func (w *world) echo(host *lab.Host, network, address string) {
	w.t.Helper()
	c, err := host.Echo(network, address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
}

// webknock runs a command of the program on the server.
func (w *world) webknock(args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	if !slices.Contains(args, "--socket") {
		args = append(args, "--socket", filepath.Join(w.dir, "webknock.sock"))
	}
	cmd := w.server.Command(w.t.Context(), binary, append(args, "--config", w.config())...)
	cmd.Env = append(os.Environ(), w.env...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		code = exit.ExitCode()
	} else if err != nil {
		w.t.Fatal(err)
	}
	return o.String(), e.String(), code
}

type grant struct {
	ID, Door, Client, Sequence string
	Remaining                  float64
	Packets                    uint64
}

func (w *world) grants() []grant {
	w.t.Helper()
	out, errs, code := w.webknock("grants", "-o", "json")
	var list struct{ Grants []grant }
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 {
		w.t.Fatalf("grants: %v, exit %d\n%s%s", err, code, out, errs)
	}
	return list.Grants
}

// mustHold fails unless the grants are these, as "door client".
func (w *world) mustHold(want ...string) {
	w.t.Helper()
	var got []string
	for _, g := range w.grants() {
		got = append(got, g.Door+" "+g.Client)
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		w.t.Errorf("grants %q, want %q", got, want)
	}
}

// mustBecome waits for grants.
func (w *world) mustBecome(want ...string) {
	w.t.Helper()
	until(w.t, fmt.Sprint("grants ", want), func() bool {
		var got []string
		for _, g := range w.grants() {
			got = append(got, g.Door+" "+g.Client)
		}
		return strings.Join(got, ", ") == strings.Join(want, ", ")
	})
}

func (w *world) nft(args ...string) string {
	w.t.Helper()
	out, err := w.server.Command(w.t.Context(), "nft", args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}
