//go:build hosts

package hosts

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An administrator logs in to a machine as root, from alice's host.
type administrator struct {
	*machine
	dir string // of the key, and of what the client keeps
}

func newAdministrator(m *machine) administrator {
	a := administrator{m, m.t.TempDir()}
	m.onDisk("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", a.dir+"/key")
	m.onDisk("install", "-D", "-m", "0600", a.dir+"/key.pub", m.Root+"/root/.ssh/authorized_keys")
	return a
}

// ssh runs a command in a new session.
func (a administrator) ssh(command string) (string, error) {
	out, err := a.alice.Command(a.t.Context(), "ssh", "-F", "/dev/null", "-i", a.dir+"/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=2", "root@"+serverIP, command).CombinedOutput()
	return string(out), err
}

// shell runs a command on alice's host.
func (a administrator) shell(command string) (string, error) {
	cmd := a.alice.Command(a.t.Context(), "sh", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+a.dir+"/client", "HOME="+a.dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A first start by the package, over ssh and beside ufw: nobody confirms, and all is as before; a new
// session confirms, and it stays so through a reboot.
func TestAFirstStartOverSSH(t *testing.T) {
	m := newBareMachine(t)
	m.onDisk("install", "-m", "0644", only(t, dist(t, t.TempDir(), "v1.0.0", "ARCHES=amd64", "PACKAGERS=deb")+"/*.deb"), m.Root+"/root/webknock.deb")
	a := newAdministrator(m)
	m.boot()
	m.run("dpkg", "-i", "/root/webknock.deb")
	m.run("systemctl", "stop", "ssh.service")
	m.run("systemctl", "start", "ssh.socket")
	if out := m.run("webknock", "init"); !strings.Contains(out, "systemd, for the SSH server, listens at [::]:22") {
		t.Errorf("by ssh.socket:\n%s", out)
	}
	m.run("systemctl", "stop", "ssh.socket")
	m.run("systemctl", "start", "ssh.service")
	m.run("ufw", "allow", "22/tcp")
	m.run("ufw", "--force", "enable")
	until(t, "sshd answers", func() bool { _, err := a.ssh("true"); return err == nil })
	if out, err := a.ssh("webknock init --start"); err == nil || !strings.Contains(out, "and nothing has changed (ufw allow 80/tcp)") {
		t.Errorf("init --start before ufw lets knocks in: %v\n%s", err, out)
	}
	m.untouched(a)
	m.run("ufw", "allow", "80/tcp")

	dry, err := a.ssh("webknock init")
	if err != nil || !strings.Contains(dry, "This is a dry run") || !strings.Contains(dry, "come from "+aliceIP) || !strings.Contains(dry, "sshd listens at 0.0.0.0:22 and [::]:22") || !strings.Contains(dry, "webknock init --start") {
		t.Errorf("init: %v\n%s", err, dry)
	}
	if text := m.run("cat", "/etc/webknock/webknock.yaml"); strings.Contains(text, "\ndoors") {
		t.Errorf("a dry run has written\n%s", text)
	}

	t.Log("nobody confirms")
	type ended struct {
		out string
		err error
	}
	over := make(chan ended)
	go func() {
		out, err := a.ssh("webknock init --start --confirm 8s")
		over <- ended{out, err}
	}()
	until(t, "webknock serves", func() bool { _, _, code := m.try("webknock", "status"); return code == 0 })
	m.mustPass(m.mallory, serverIP, 22, false)
	m.mustPass(m.alice, serverIP, 22, false)
	if e := <-over; e.err == nil || !strings.Contains(e.out, "nobody has confirmed, and all is undone") || !strings.Contains(e.out, "/etc/webknock/webknock.yaml") {
		t.Errorf("init --start that nobody confirms: %v\n%s", e.err, e.out)
	}
	m.untouched(a)
	m.mustPass(m.mallory, serverIP, 22, true)
	m.mustPass(m.mallory, serverIP6, 22, true)
	if out := m.run("stat", "-c", "%U:%G %a", "/etc/webknock/webknock.yaml"); out != "root:webknock 640\n" {
		t.Errorf("who may read the configuration: %s", out)
	}
	if out, err := a.ssh("webknock init --write"); err == nil || !strings.Contains(out, "never overwritten") {
		t.Errorf("init --write over a configuration: %v\n%s", err, out)
	}

	t.Log("the machine boots during the trial")
	if out, err := a.ssh("webknock init --start -o json"); err != nil {
		t.Fatalf("init --start once more: %v\n%s", err, out)
	}
	m.mustPass(m.mallory, serverIP, 22, false)
	m.reboot("running")
	m.untouched(a)

	t.Log("a start that fails")
	m.run("systemd-run", "--quiet", "--unit=squatter", "--socket-property=ListenStream=80", "--socket-property=BindIPv6Only=both", "/bin/sleep", "infinity")
	if out, err := a.ssh("webknock init --start"); err == nil || !strings.Contains(out, "the firewall and the units are as they were") {
		t.Errorf("init --start at a port that is taken: %v\n%s", err, out)
	}
	m.untouched(a)
	m.mustPass(m.mallory, serverIP, 22, true)
	m.run("systemctl", "stop", "squatter.socket")

	t.Log("a new session confirms")
	m.run("rm", "/etc/webknock/webknock.yaml")
	out, err := a.ssh(`webknock init --start -o json && webknock confirm >&2; sudo() { env -i "$@"; }; sudo /usr/bin/webknock confirm`)
	if err == nil || strings.Count(out, "this is the session in which webknock init ran") != 2 {
		t.Errorf("confirm in the same session: %v\n%s", err, out)
	}
	var printed struct {
		Result string
		Client struct{ Curl, Profile string }
	}
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&printed); err != nil || printed.Result != "trial" {
		t.Fatalf("init --start: %v\n%s", err, out)
	}
	m.mustPass(m.alice, serverIP, 22, false)
	if out, err := a.shell(printed.Client.Curl); err == nil || out != "" {
		t.Errorf("%s: %v, %s", printed.Client.Curl, err, out)
	}
	until(t, "the door opens", func() bool { return m.passes(m.alice, serverIP, 22) })
	if out, err := a.ssh("webknock confirm"); err != nil || !strings.Contains(out, "confirmed: webknock and its guard are enabled") {
		t.Fatalf("confirm: %v\n%s", err, out)
	}
	for _, unit := range []string{"webknock.service", "webknock-guard.service"} {
		if out := m.run("systemctl", "is-enabled", unit) + m.run("systemctl", "is-active", unit); out != "enabled\nactive\n" {
			t.Errorf("%s is %s", unit, out)
		}
	}
	if out := m.run("webknock", "status"); !strings.Contains(out, " ok") || strings.Contains(out, "undone in") {
		t.Errorf("status:\n%s", out)
	}

	t.Log("reboot")
	p := startPoll(t, m.mallory, ssh...)
	m.reboot("running")
	m.mustPass(m.alice, serverIP, 22, false)
	if out, err := a.shell("webknock profile add home <<'END'\n" + printed.Client.Profile + "END\nwebknock knock home"); err != nil {
		t.Errorf("knock: %v\n%s", err, out)
	}
	if out, err := a.ssh("echo in"); err != nil || out != "in\n" {
		t.Errorf("ssh: %v, %s", err, out)
	}
	m.run("webknock", "doctor")
	m.neverOpen(p)

	t.Log("a user with tickets, from the start")
	p.end(t)
	m.run("webknock", "unguard")
	m.run("systemctl", "--quiet", "disable", "--now", "webknock.service", "webknock-guard.service")
	m.run("rm", "/etc/webknock/webknock.yaml")
	until(t, "sshd answers", func() bool { _, err := a.ssh("true"); return err == nil }) // it has been polled
	out, err = a.ssh("webknock init --user alice --port 80 --start -o json")
	if err := errors.Join(err, json.Unmarshal([]byte(out), &printed)); err != nil || printed.Client.Curl != "" {
		t.Fatalf("init --user: %v\n%s", err, out)
	}
	m.mustPass(m.alice, serverIP, 22, false)
	if out, err := a.shell("webknock profile add --replace home <<'END'\n" + printed.Client.Profile + "END\nwebknock knock home"); err != nil {
		t.Errorf("knock: %v\n%s", err, out)
	}
	if out, err := a.ssh("webknock confirm"); err != nil {
		t.Errorf("confirm: %v\n%s", err, out)
	}
}

// untouched fails if a trial has left something.
func (m *machine) untouched(a administrator) {
	m.t.Helper()
	for _, unit := range []string{"webknock.service", "webknock-guard.service"} {
		if out, _, _ := m.try("systemctl", "is-enabled", unit); strings.TrimSpace(out) != "disabled" {
			m.t.Errorf("%s is %s", unit, out)
		}
		if out, _, _ := m.try("systemctl", "is-active", unit); strings.TrimSpace(out) == "active" {
			m.t.Errorf("%s is %s", unit, out)
		}
	}
	for _, file := range []string{"/run/systemd/system/webknock.service.d", "/run/systemd/system/webknock-trial.service"} {
		if _, _, code := m.try("test", "-e", file); code == 0 {
			m.t.Errorf("%s is left", file)
		}
	}
	if out := m.run("nft", "list", "tables"); strings.Contains(out, "webknock") {
		m.t.Errorf("tables:\n%s", out)
	}
	if out, err := a.ssh("echo in"); err != nil || out != "in\n" {
		m.t.Errorf("ssh: %v, %s", err, out)
	}
}

// With its port closed in firewalld, init says by what command it lets knocks in, and
// that command does, as the port of SSH is let through already.
func (b *beside) initBesideFirewalld() {
	b.t.Helper()
	commands := func() []string {
		b.t.Helper()
		cmd := b.server.Command(b.t.Context(), binary, "init", "-o", "json", "--port", "8088", "--config", filepath.Join(b.t.TempDir(), "new.yaml"))
		cmd.Env = append(os.Environ(), "SSH_CONNECTION="+aliceIP+" 4711 "+serverIP+" 22")
		out, err := cmd.Output()
		var printed struct {
			Commands []string
			Found    []struct{ Text string }
		}
		if err == nil {
			err = json.Unmarshal(out, &printed)
		}
		if err != nil {
			b.t.Fatalf("init: %v\n%s", err, out)
		}
		b.t.Logf("found %v", printed.Found)
		return printed.Commands
	}
	said := commands()
	if want := "firewall-cmd --permanent --zone=public --add-port=8088/tcp; firewall-cmd --reload"; strings.Join(said, "; ") != want {
		b.t.Errorf("init says %q, want %q", said, want)
	}
	for _, command := range said {
		b.must("sh", "-c", command)
	}
	if said := commands(); len(said) > 0 {
		b.t.Errorf("after that it says %q", said)
	}
}
