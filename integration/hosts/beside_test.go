//go:build hosts

package hosts

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"webknock/integration/lab"
)

// beside are hosts with webknock on the server, beside something else.
type beside struct {
	*hosts
	dir    string
	daemon *exec.Cmd
}

func newBeside(t *testing.T, config string) *beside {
	t.Helper()
	b := &beside{hosts: newHosts(t), dir: t.TempDir()}
	config += "\nstate: " + b.dir + "/state\nadmin: {socket: " + b.dir + "/webknock.sock}\n"
	if err := os.WriteFile(filepath.Join(b.dir, "webknock.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b.serve()
	return b
}

// serve starts the daemon, and waits until it serves.
func (b *beside) serve() {
	b.t.Helper()
	b.daemon = b.server.Command(context.Background(), binary, "serve", "--config", filepath.Join(b.dir, "webknock.yaml"))
	b.run(b.daemon, "serving")
}

// run starts a command that is killed when the test ends, and waits until its
// log holds text.
func (b *beside) run(cmd *exec.Cmd, text string) {
	b.t.Helper()
	var mu sync.Mutex
	var log bytes.Buffer
	out, err := cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd.Stdout = cmd.Stderr
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	found, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		seen := false
		for s := bufio.NewScanner(out); s.Scan(); {
			mu.Lock()
			fmt.Fprintln(&log, s.Text())
			mu.Unlock()
			if !seen && strings.Contains(s.Text(), text) {
				seen = true
				close(found)
			}
		}
	}()
	b.t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait()
		if b.t.Failed() {
			b.t.Logf("log of %v:\n%s", cmd.Args, log.String())
		}
	})
	select {
	case <-found:
	case <-ended:
		b.t.Fatalf("%v has ended without %q", cmd.Args, text)
	case <-time.After(30 * time.Second):
		b.t.Fatalf("no %q from %v", text, cmd.Args)
	}
}

// webknock runs a command of the program on the server, which must succeed.
func (b *beside) webknock(args ...string) string {
	b.t.Helper()
	return b.must(binary, append(args, "--config", filepath.Join(b.dir, "webknock.yaml"))...)
}

// must runs a command on the server, which must succeed.
func (b *beside) must(name string, args ...string) string {
	b.t.Helper()
	out, err := b.server.Command(b.t.Context(), name, args...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// findings are what the doctor says of a door and a client, by check and address
// family.
func (b *beside) findings(subject, from string) map[string]string {
	b.t.Helper()
	out, _ := b.server.Command(b.t.Context(), binary, "doctor", "--from", from, "-o", "json", "--config", filepath.Join(b.dir, "webknock.yaml")).Output()
	var report struct {
		Findings []struct{ Check, Subject, Family, Status, Detail string }
	}
	if err := json.Unmarshal(out, &report); err != nil {
		b.t.Fatalf("doctor: %v\n%s", err, out)
	}
	said := map[string]string{}
	for _, f := range report.Findings {
		if strings.HasPrefix(f.Subject, subject) {
			said[f.Check+" "+f.Family] = f.Status + ": " + f.Detail
		}
	}
	return said
}

// wholePath knocks over IPv4 and IPv6, and tries a port before, in between and
// after.
func (b *beside) wholePath(port int) {
	b.t.Helper()
	for _, to := range []string{serverIP, serverIP6} {
		b.mustAnswer(b.alice, to, port, false)
		b.knock(b.alice, to, "/a", "/b", "/c")
		until(b.t, fmt.Sprintf("the way to %s port %d opens", to, port), func() bool { return b.answers(b.alice, to, port) })
		b.mustAnswer(b.mallory, to, port, false)
		b.webknock("close", "--all")
		b.mustAnswer(b.alice, to, port, false)
	}
}

// answers reports whether something answers a line that is sent to a port:
// Docker's proxy accepts connections by itself.
func (b *beside) answers(from *lab.Host, to string, port int) bool {
	return from.Do(func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(to, fmt.Sprint(port)), 700*time.Millisecond)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err = conn.Read(make([]byte, 1))
		return err
	}) == nil
}

func (b *beside) mustAnswer(from *lab.Host, to string, port int, want bool) {
	b.t.Helper()
	if got := b.answers(from, to, port); got != want {
		b.t.Errorf("%s to %s port %d: answered %v, want %v", from.Name, to, port, got, want)
	}
}

// echo has the server send back what it receives on a port, by TCP and by UDP.
func (b *beside) echo(port int) {
	b.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		c, err := b.server.Echo(network, fmt.Sprint(":", port))
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { c.Close() })
	}
}

// dial opens a session from alice.
func (b *beside) dial(network string, port int) net.Conn {
	b.t.Helper()
	var conn net.Conn
	if err := b.alice.Do(func() (err error) {
		conn, err = net.DialTimeout(network, net.JoinHostPort(serverIP, fmt.Sprint(port)), 5*time.Second)
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

// echoes reports whether a line comes back within patience.
func echoes(conn net.Conn, patience time.Duration) bool {
	line := fmt.Sprint(time.Now().UnixNano())
	conn.SetDeadline(time.Now().Add(patience))
	conn.Write([]byte(line))
	var got []byte
	for buf := make([]byte, 512); ; {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if bytes.Contains(got, []byte(line)) {
			return true
		}
		if err != nil {
			return false
		}
	}
}

const both = `
listeners:
  - address: ":8080"
doors:
  - name: echo
    ports: [7/tcp, 7/udp]
    ttl: 1h
sequences:
  - name: echo
    steps: [/a, /b, /c]
    opens: [echo]
`

// A session is kept for as long as connection tracking knows it.
func TestASessionLivesAsLongAsItIsTracked(t *testing.T) {
	b := newBeside(t, both)
	b.echo(7)
	open := func() { b.webknock("open", "echo", aliceIP) }
	shut := func() { b.webknock("close", "--all") }
	open()
	tcp, udp := b.dial("tcp", 7), b.dial("udp", 7)
	for _, s := range []net.Conn{tcp, udp} {
		if !echoes(s, 5*time.Second) {
			t.Fatalf("no session by %s", s.LocalAddr().Network())
		}
	}
	shut()
	for _, s := range []net.Conn{tcp, udp} {
		if !echoes(s, 5*time.Second) {
			t.Errorf("the session by %s ended with its grant", s.LocalAddr().Network())
		}
	}
	b.must("conntrack", "-F")
	for _, s := range []net.Conn{tcp, udp} {
		if echoes(s, time.Second) {
			t.Errorf("the session by %s lives on after conntrack -F", s.LocalAddr().Network())
		}
	}
	open()
	for _, s := range []net.Conn{tcp, udp} {
		if !echoes(s, 20*time.Second) {
			t.Errorf("a new grant does not bring the session by %s back", s.LocalAddr().Network())
		}
	}
	shut()
	if !echoes(tcp, 5*time.Second) {
		t.Error("the session that came back ended with its grant")
	}
	// One that is silent for longer than the kernel remembers it.
	b.must("sysctl", "-q", "-w", "net.netfilter.nf_conntrack_udp_timeout=1", "net.netfilter.nf_conntrack_udp_timeout_stream=1")
	open()
	if !echoes(udp, 5*time.Second) {
		t.Error("no UDP under a grant")
	}
	shut()
	until(t, "the flow is forgotten", func() bool { return !strings.Contains(b.must("conntrack", "-L", "-p", "udp"), "dport=7 ") })
	if echoes(udp, time.Second) {
		t.Error("a UDP flow that was forgotten lives on")
	}
	// One that is not tracked.
	b.must("nft", "add table inet raw; add chain inet raw pre { type filter hook prerouting priority -300; }; add rule inet raw pre tcp dport 7 notrack; "+
		"add chain inet raw out { type filter hook output priority -300; }; add rule inet raw out tcp sport 7 notrack")
	open()
	untracked := b.dial("tcp", 7)
	if !echoes(untracked, 5*time.Second) {
		t.Error("no session without tracking under a grant")
	}
	shut()
	if echoes(untracked, time.Second) {
		t.Error("a session that is not tracked outlives its grant")
	}
}

// firewalld as users have it, with its nftables backend and a D-Bus of its own.
func TestDoorsBesideFirewalld(t *testing.T) {
	b := newBeside(t, standard)
	b.echo(22)
	etc := t.TempDir()
	if err := lab.PrivateCopy("/etc/firewalld", etc, "/etc/firewalld/."); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/run/dbus", "/run/firewalld"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bus := b.server.Command(context.Background(), "dbus-daemon", "--system", "--nofork", "--nopidfile", "--print-address")
	b.run(bus, "unix:path=")
	firewalld := b.server.Command(context.Background(), "firewalld", "--nofork", "--nopid", "--log-target=console")
	b.run(firewalld, "")
	until(t, "firewalld answers", func() bool { return b.server.Run("firewall-cmd", "--state") == nil })
	cmd := func(args ...string) { b.must("firewall-cmd", append([]string{"--quiet"}, args...)...) }
	b.initBesideFirewalld()
	for _, arguments := range []string{"--add-port=8080/tcp", "--remove-service=ssh"} {
		cmd(arguments)
		cmd("--permanent", arguments)
	}
	// What firewalld itself keeps shut no grant opens.
	b.webknock("open", "ssh", aliceIP)
	b.mustAnswer(b.alice, serverIP, 22, false)
	if said := b.findings("ssh 22/tcp", aliceIP)["passes ipv4"]; !strings.HasPrefix(said, "fail") {
		t.Errorf("the doctor says %q of a service that the zone does not have", said)
	}
	// A direct rule that accepts the mark does not help: firewalld's own table drops.
	for _, family := range []string{"ipv4", "ipv6"} {
		cmd("--direct", "--add-rule", family, "filter", "INPUT", "0", "-m", "mark", "--mark", "0x40000000/0x40000000", "-j", "ACCEPT")
	}
	b.mustAnswer(b.alice, serverIP, 22, false)
	cmd("--direct", "--remove-rules", "ipv4", "filter", "INPUT")
	cmd("--direct", "--remove-rules", "ipv6", "filter", "INPUT")
	b.webknock("close", "--all")

	t.Log("the service in the zone")
	cmd("--add-service=ssh")
	cmd("--permanent", "--add-service=ssh")
	b.wholePath(22)
	for check, from := range map[string]string{"shut ipv4": aliceIP, "passes ipv4": aliceIP, "shut ipv6": aliceIP6} { // by IPv6 the reverse path depends on marks
		if said := b.findings("ssh 22/tcp", from)[check]; !strings.HasPrefix(said, "ok") {
			t.Errorf("the doctor says of %s: %s", check, said)
		}
	}
	for _, arguments := range [][]string{{"--reload"}, {"--complete-reload"}} {
		t.Log(arguments)
		cmd(arguments...)
		b.wholePath(22)
	}
	cmd("--panic-on")
	b.webknock("open", "ssh", aliceIP)
	b.mustAnswer(b.alice, serverIP, 22, false)
	cmd("--panic-off")
	b.webknock("close", "--all")
	b.wholePath(22)

	t.Log("a policy")
	cmd("--remove-service=ssh")
	cmd("--permanent", "--remove-service=ssh")
	for _, arguments := range [][]string{
		{"--new-policy=webknock"},
		{"--policy=webknock", "--add-ingress-zone=ANY"},
		{"--policy=webknock", "--add-egress-zone=HOST"},
		{"--policy=webknock", "--set-priority=-100"},
		{"--policy=webknock", "--add-rich-rule=rule service name=ssh accept"},
		{"--policy=webknock", "--add-rich-rule=rule port port=8080 protocol=tcp accept"},
	} {
		cmd(append([]string{"--permanent"}, arguments...)...)
	}
	cmd("--reload")
	b.wholePath(22)
	cmd("--set-default-zone=drop")
	b.wholePath(22)

	firewalld.Process.Signal(syscall.SIGTERM)
	until(t, "firewalld's table is gone", func() bool { return !strings.Contains(b.must("nft", "list", "tables"), "firewalld") })
	b.wholePath(22)
}

const published = `
listeners:
  - address: ":8080"
doors:
  - name: app
    ports: [2222/tcp]
    ttl: 1h
  - name: host
    ports: [2223/tcp]
    ttl: 1h
sequences:
  - name: app
    steps: [/a, /b, /c]
    opens: [app, host]
`

// The real dockerd. In its containers, the program under test answers with a
// page.
func TestDoorsBesideDocker(t *testing.T) {
	for name, options := range map[string][]string{
		"with its proxy":    {"--userland-proxy=true"},
		"without its proxy": {"--userland-proxy=false"},
		"IPv4 alone":        {"--userland-proxy=true", "--ipv6=false", "--ip6tables=false"}, // by IPv6 its proxy answers
	} {
		t.Run(name, func(t *testing.T) {
			b := newBeside(t, published)
			d := b.docker(options...)
			d.start()
			image := filepath.Join(t.TempDir(), "image")
			for file, text := range map[string]string{"bridge.yaml": "8080", "host.yaml": "2223"} {
				text = "listeners: [{address: ':" + text + "', cover: {status: 404}}]\nfirewall: {backend: memory}\nstate: /state\nadmin: {socket: /socket}\n" +
					"doors: [{name: a, ports: [1/tcp]}]\nsequences: [{name: a, steps: [/x, /y], opens: [a]}]\n"
				if err := os.MkdirAll(image, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(image, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := exec.Command("sh", "-c", `cp "$1" "$2"/webknock && tar -C "$2" -cf "$2".tar .`, "sh", binary, image).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			d.must("import", image+".tar", "app")
			d.must("run", "--detach", "--restart=always", "--publish=2222:8080", "--publish=2224:8080", "app", "/webknock", "serve", "--config", "/bridge.yaml")
			d.must("run", "--detach", "--restart=always", "--network=host", "app", "/webknock", "serve", "--config", "/host.yaml")
			up := func() {
				t.Helper()
				until(t, "the containers answer", func() bool { return b.answers(b.alice, serverIP, 2224) })
			}
			up()
			b.wholePath(2222)
			b.wholePath(2223)
			if out := b.webknock("doctor"); !strings.Contains(out, "2224") {
				t.Errorf("the doctor does not name the published port that no door covers:\n%s", out)
			}
			for _, check := range []string{"shut ipv4", "passes ipv4"} {
				if said := b.findings("app 2222/tcp", aliceIP)[check]; !strings.HasPrefix(said, "ok") {
					t.Errorf("the doctor says of %s: %s", check, said)
				}
			}
			// A grant that runs outlives a restart of dockerd, and nobody else gets in.
			b.webknock("open", "app", aliceIP)
			d.stop()
			b.mustAnswer(b.mallory, serverIP, 2222, false)
			d.start()
			up()
			until(t, "the grant passes after a restart of dockerd", func() bool { return b.answers(b.alice, serverIP, 2222) })
			b.mustAnswer(b.mallory, serverIP, 2222, false)
			b.mustAnswer(b.mallory, serverIP6, 2222, false)
			b.webknock("close", "--all")
			b.wholePath(2222)
		})
	}
}

// docker is a dockerd on the server.
type docker struct {
	b       *beside
	dir     string
	options []string
	daemon  *exec.Cmd
}

func (b *beside) docker(options ...string) *docker {
	return &docker{b: b, dir: b.t.TempDir(), options: options}
}

// start runs dockerd in process and mount namespaces of its own, so that all of
// its containers end with it.
func (d *docker) start() {
	d.b.t.Helper()
	args := append([]string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup",
		"sh", "-c", `mount -t tmpfs tmpfs /run && exec "$@"`, "sh",
		"dockerd", "--host=unix://" + d.dir + "/socket", "--data-root=" + d.dir + "/data", "--exec-root=/run/docker", "--pidfile=/run/docker.pid",
		"--bip=172.31.0.1/24", "--ipv6", "--fixed-cidr-v6=fd31::/64", "--ip6tables", "--experimental"}, d.options...)
	d.daemon = d.b.server.Command(context.Background(), "unshare", args...)
	d.b.run(d.daemon, "API listen on")
}

// stop ends dockerd as a service manager does.
func (d *docker) stop() {
	d.b.t.Helper()
	pids, err := exec.Command("pgrep", "-P", fmt.Sprint(d.daemon.Process.Pid)).Output()
	if err != nil {
		d.b.t.Fatal(err)
	}
	if out, err := exec.Command("kill", strings.TrimSpace(string(pids))).CombinedOutput(); err != nil {
		d.b.t.Fatalf("%v\n%s", err, out)
	}
	done := make(chan struct{})
	go func() { d.daemon.Process.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		d.b.t.Fatal("dockerd does not end")
	}
}

func (d *docker) must(args ...string) string {
	d.b.t.Helper()
	return d.b.must("docker", append([]string{"--host=unix://" + d.dir + "/socket"}, args...)...)
}
