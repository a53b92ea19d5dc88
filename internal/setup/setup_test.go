package setup

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A tree is the root of a file system, made up.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T) tree {
	tr := tree{t, t.TempDir()}
	tr.write("proc/self/net/tcp", head)
	return tr
}

func (tr tree) write(path, text string) {
	tr.t.Helper()
	path = filepath.Join(tr.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

// process makes a process with sockets.
func (tr tree) process(pid int, comm, title string, inodes ...int) {
	tr.t.Helper()
	dir := fmt.Sprintf("proc/%d/", pid)
	tr.write(dir+"comm", comm+"\n")
	tr.write(dir+"cmdline", title)
	if err := os.MkdirAll(filepath.Join(tr.root, dir, "fd"), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	for i, inode := range inodes {
		if err := os.Symlink(fmt.Sprintf("socket:[%d]", inode), filepath.Join(tr.root, dir, "fd", fmt.Sprint(i))); err != nil {
			tr.t.Fatal(err)
		}
	}
}

// What the kernel of an amd64 machine writes.
const (
	head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	tcp  = head +
		"   0: 00000000:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0000000000000000 100 0 0 10 0\n" +
		"   1: 0100007F:177A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1 0000000000000000 100 0 0 10 0\n" +
		"   2: 0114020A:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0000000000000000 100 0 0 10 0\n" +
		"   3: 0114020A:08AE 0214020A:1267 01 00000000:00000000 00:00000000 00000000     0        0 104 1 0000000000000000 20 4 30 10 -1\n"
	tcp6 = head +
		"   0: 00000000000000000000000000000000:08AE 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 105 1 0000000000000000 100 0 0 10 0\n" +
		"   1: B80D01200000000000000000FFFE0000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 106 1 0000000000000000 100 0 0 10 0\n"
)

func TestListeningSocketsAndWhoHasThem(t *testing.T) {
	if !littleEndian {
		t.Fatal("the fixtures are those of a little-endian machine")
	}
	tr := newTree(t)
	tr.write("proc/self/net/tcp", tcp)
	tr.write("proc/self/net/tcp6", tcp6)
	tr.process(1, "systemd", "/sbin/init", 101, 105) // it had them first
	tr.process(20, "sshd", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\x00", 101, 105)
	tr.process(30, "sshd", "sshd: root@pts/0\x00", 102, 104)
	tr.process(40, "nginx", "nginx: master process\x00", 103)
	f, err := find(tr.root, func(...string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range f.Listening {
		got = append(got, s.Address.String()+" "+s.Program)
	}
	want := []string{"[2001:db8::feff]:80 ", "10.2.20.1:443 nginx", "0.0.0.0:2222 sshd", "[::]:2222 sshd", "127.0.0.1:6010 sshd-session"}
	if !slices.Equal(got, want) {
		t.Errorf("listening %q, want %q", got, want)
	}
	if ports := f.SSHPorts(); !slices.Equal(ports, []uint16{2222}) {
		t.Errorf("SSH at %v", ports)
	}
	if s := siteOf(&f); s == nil || s.Program != "nginx" || !slices.Equal(s.Ports, []uint16{443}) {
		t.Errorf("site %+v", s)
	}
}

func TestSSHIsFoundWhoeverHasTheSocket(t *testing.T) {
	at := func(port int) string {
		return head + fmt.Sprintf("   0: 00000000:%04X 00000000:0000 0A 0:0 0:0 0 0 0 7 1 0\n", port)
	}
	for _, tt := range []struct {
		name string
		make func(tr tree)
		run  map[string]string
		come string // SSH_CONNECTION
		want []uint16
	}{
		{name: "dropbear", make: func(tr tree) { tr.process(9, "dropbear", "dropbear", 7) }, want: []uint16{2022}},
		{name: "systemd's socket", make: func(tr tree) {
			tr.write("run/systemd/system/x", "")
			tr.process(1, "systemd", "init", 7)
		}, run: map[string]string{"systemctl": "Listen=[::]:2022 (Stream)\n\nListen=0.0.0.0:2022 (Stream)\n"}, want: []uint16{2022}},
		{name: "another socket of systemd's", make: func(tr tree) {
			tr.write("run/systemd/system/x", "")
			tr.process(1, "systemd", "init", 7)
		}, run: map[string]string{"systemctl": "Listen=[::]:22 (Stream)\n"}},
		{name: "not root, by its configuration", run: map[string]string{"sshd": "port 2022\naddressfamily any\n"}, want: []uint16{2022}},
		{name: "by the session", come: "192.0.2.7 4711 192.0.2.1 2022", want: []uint16{2022}},
		{name: "nobody", come: "192.0.2.7 4711 192.0.2.1 22"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := newTree(t)
			tr.write("proc/self/net/tcp", at(2022))
			if tt.make != nil {
				tt.make(tr)
			}
			f, err := find(tr.root, func(args ...string) string { return tt.run[args[0]] })
			if err != nil {
				t.Fatal(err)
			}
			f.Session, _ = parseSession(tt.come)
			f.addSession()
			if got := f.SSHPorts(); !slices.Equal(got, tt.want) {
				t.Errorf("SSH at %v, want %v", got, tt.want)
			}
		})
	}
}

// sudo takes SSH_CONNECTION away: an ancestor has it.
func TestTheSessionIsFoundUnderSudo(t *testing.T) {
	const text = "192.0.2.7 4711 2001:db8::1 22"
	tr := newTree(t)
	tr.write("proc/30/stat", "30 (su) do) S 20 30 30")
	tr.write("proc/30/environ", "HOME=/root\x00SUDO_USER=alice\x00")
	tr.write("proc/20/stat", "20 (bash) S 1 20 20")
	tr.write("proc/20/environ", "LANG=C\x00SSH_CONNECTION="+text+"\x00")
	s, ok := sessionOf(tr.root, "", 30)
	if !ok || s.Text != text || s.Client.Addr() != netip.MustParseAddr("192.0.2.7") || s.Server != netip.MustParseAddrPort("[2001:db8::1]:22") {
		t.Errorf("session %+v, %v", s, ok)
	}
	if s, ok := sessionOf(tr.root, "1.2.3.4 1 5.6.7.8 2", 30); !ok || s.Client.String() != "1.2.3.4:1" {
		t.Errorf("the own environment says otherwise: %+v", s)
	}
	for _, wrong := range []string{"x", "1.2.3.4 1 5.6.7.8", "1.2.3.4 99999 5.6.7.8 2", "one 1 two 2"} {
		if _, ok := sessionOf(tr.root, wrong, 1); ok {
			t.Errorf("%q is taken for a session", wrong)
		}
	}
}

func TestOtherFirewallsAreFound(t *testing.T) {
	tr := newTree(t)
	tr.write("etc/ufw/ufw.conf", "# comment\nENABLED=yes\nLOGLEVEL=low\n")
	tr.write("run/firewalld/x", "")
	tr.write("etc/firewalld/firewalld.conf", "# DefaultZone=drop\nDefaultZone=home\n")
	tr.write("run/docker.sock", "")
	f, err := find(tr.root, func(...string) string { return "" })
	if err != nil || !f.UFW || !f.Firewalld || f.Zone != "home" || !f.Docker || f.Systemd {
		t.Errorf("%+v, %v", f, err)
	}
	tr = newTree(t)
	tr.write("etc/ufw/ufw.conf", "ENABLED=no\n")
	if f, err = find(tr.root, func(...string) string { return "" }); err != nil || f.UFW || f.Firewalld || f.Docker {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestWhatOtherFirewallsNeed(t *testing.T) {
	const rule = "knocks do not get here: rule 3 of chain inet filter input (drop) stops it"
	for _, tt := range []struct {
		facts   Facts
		stopped string
		want    string
	}{
		{Facts{UFW: true}, "the policy of chain ip filter INPUT stops it", "ufw allow 80/tcp"},
		{Facts{UFW: true}, rule, "nft insert rule inet filter input tcp dport 80 accept    # and the rule into /etc/nftables.conf"}, // not ufw's
		{Facts{UFW: true}, "cannot tell", "ufw allow 80/tcp"},
		{Facts{Firewalld: true, Zone: "home"}, "rule 6 of chain inet firewalld filter_INPUT (reject) stops it", "firewall-cmd --permanent --zone=home --add-port=80/tcp; firewall-cmd --reload"},
		{Facts{}, rule, "nft insert rule inet filter input tcp dport 80 accept    # and the rule into /etc/nftables.conf"},
		{Facts{}, "the policy of chain ip filter INPUT stops it", "iptables -I INPUT -p tcp --dport 80 -j ACCEPT"},
		{Facts{}, "rule 1 of chain ip6 filter INPUT (drop) stops it", "ip6tables -I INPUT -p tcp --dport 80 -j ACCEPT"},
		{Facts{}, "routing sends them elsewhere", ""},
	} {
		if got := strings.Join(tt.facts.Allow(80, tt.stopped), "; "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.stopped, got, tt.want)
		}
	}
}

func socket(address, program string) Socket {
	return Socket{Address: netip.MustParseAddrPort(address), Program: program}
}

func TestTheListenerFitsTheHost(t *testing.T) {
	sshd := socket("0.0.0.0:22", "sshd")
	for _, tt := range []struct {
		name      string
		listening []Socket
		wishes    Wishes
		want      string // port, server and first step; or the error
	}{
		{"port 80 is free", nil, Wishes{}, "80 http://192.0.2.1 /1"},
		{"an unknown program has port 80", []Socket{socket("[::]:80", "docker-proxy")}, Wishes{}, "8080 http://192.0.2.1:8080 /1"},
		{"and others the next", []Socket{socket("[::]:80", "x"), socket("127.0.0.1:8080", "y")}, Wishes{}, "8000 http://192.0.2.1:8000 /1"},
		{"nginx has port 80", []Socket{socket("0.0.0.0:80", "nginx")}, Wishes{}, "8080 http://192.0.2.1 /knock/1"},
		{"caddy has both", []Socket{socket("[::]:80", "caddy"), socket("[::]:443", "caddy"), socket("127.0.0.1:8080", "site")}, Wishes{Host: "example.org"}, "8081 https://example.org /knock/1"},
		{"nobody has a certificate for an address", []Socket{socket("[::]:80", "caddy"), socket("[::]:443", "caddy")}, Wishes{}, "8080 http://192.0.2.1 /knock/1"},
		{"nginx listens to this host alone", []Socket{socket("127.0.0.1:80", "nginx")}, Wishes{}, "8080 http://192.0.2.1:8080 /1"},
		{"a port of one's own beside nginx", []Socket{socket("0.0.0.0:80", "nginx")}, Wishes{Port: 8443, Host: "2001:db8::1"}, "8443 http://[2001:db8::1]:8443 /1"},
		{"a port that is taken", []Socket{socket("0.0.0.0:80", "nginx")}, Wishes{Port: 80}, "port 80 is taken by nginx (another --port)"},
		{"the port of the SSH server", nil, Wishes{Port: 22}, "port 22 is the SSH server's (another --port)"},
		{"a user", nil, Wishes{User: "alice"}, "80 http://192.0.2.1 /t/{ticket}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := Facts{SSH: []Socket{sshd}, Listening: append(tt.listening, sshd)}
			f.Session, _ = parseSession("192.0.2.7 4711 192.0.2.1 22")
			n := 0
			p, err := NewPlan(&f, tt.wishes, func() string { n++; return fmt.Sprintf("/%d", n) })
			got := fmt.Sprint(err)
			if err == nil {
				got = fmt.Sprintf("%d %s %s", p.Port, p.Server, p.Steps[0])
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// Who has come from outside to a private address has come through a translation.
func TestAnAddressThatClientsCannotReach(t *testing.T) {
	for _, tt := range []struct{ session, host, want string }{
		{"192.0.2.7 4711 10.0.0.5 22", "", "10.0.0.5"},
		{"192.0.2.7 4711 10.0.0.5 22", "home.example.org", ""},
		{"10.0.0.9 4711 10.0.0.5 22", "", ""},
		{"192.0.2.7 4711 192.0.2.1 22", "", ""},
		{"", "", ""},
	} {
		var f Facts
		f.Session, _ = parseSession(tt.session)
		if got := f.HiddenBehind(Wishes{Host: tt.host}); got != tt.want {
			t.Errorf("%q, host %q: %q, want %q", tt.session, tt.host, got, tt.want)
		}
	}
}

// The snippets are parts of the recipes, which a test runs.
func TestSnippetsArePartsOfTheRecipes(t *testing.T) {
	code := func(line string) string {
		line, _, _ = strings.Cut(line, "#")
		return strings.TrimSpace(line)
	}
	for program, file := range map[string]string{"nginx": "nginx.conf", "caddy": "Caddyfile", "apache2": "apache.conf", "httpd": "apache.conf", "haproxy": "haproxy.cfg"} {
		text, err := os.ReadFile("../../docs/recipes/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			lines = append(lines, code(line))
		}
		s := sites[program]
		if !strings.Contains(string(text), "client_address: "+s.ClientAddress) {
			t.Errorf("%s: client_address is %s", program, s.ClientAddress)
		}
		for line := range strings.Lines(s.snippet) {
			line := strings.Replace(code(line), "use_backend webknock if knock", "default_backend webknock", 1)
			if line != "" && !slices.Contains(lines, line) {
				t.Errorf("%s: the recipe has no %q", program, line)
			}
		}
		s.Listener = 8099
		if got := s.Snippet(); strings.Contains(got, "8080") || !strings.Contains(got, "127.0.0.1:8099") {
			t.Errorf("%s: another port:\n%s", program, got)
		}
	}
}
