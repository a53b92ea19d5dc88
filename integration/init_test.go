package integration

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"webknock/integration/lab"
)

// initialised is what webknock init -o json prints.
type initialised struct {
	Result, File, Config, Next string
	Found                      []struct{ About, Text string }
	Commands                   []string
	Site                       *struct{ Program, Snippet string }
	Client                     struct {
		Server, Profile, Curl, SSH string
		SSHConfig                  string `json:"ssh_config"`
	}
}

// says reports whether something was found.
func (i initialised) says(about, text string) bool {
	for _, f := range i.Found {
		if f.About == about && strings.Contains(f.Text, text) {
			return true
		}
	}
	return false
}

// init runs webknock init as somebody who has come from alice's host by ssh.
func (w *world) init(args ...string) (i initialised) {
	w.t.Helper()
	out, stderr, code := w.webknock(append([]string{"init", "-o", "json"}, args...)...)
	if code != 0 {
		w.t.Fatalf("init %v: exit %d\n%s", args, code, stderr)
	}
	if err := json.Unmarshal([]byte(out), &i); err != nil {
		w.t.Fatalf("init %v: %v\n%s", args, err, out)
	}
	return i
}

// comeBySSH has commands run under a session of ssh from a client. The state and the
// socket, which init does not choose, are those of the test.
func (w *world) comeBySSH(client string) {
	w.env = []string{"SSH_CONNECTION=" + client + " 4711 " + serverIP + " 2222", "WEBKNOCK_STATE=" + w.dir + "/state", "WEBKNOCK_SOCKET=" + w.dir + "/webknock.sock"}
}

// sshdAt runs sshd at another port.
func (w *world) sshdAt(port string) {
	w.t.Helper()
	w.sshdWith("Port " + port + "\n")
}

// logIn runs a command on the server as root, by ssh.
func (w *world) logIn(from *lab.Host, port string, command ...string) (string, error) {
	out, err := from.Command(w.t.Context(), "ssh", append([]string{"-p", port, "-F", "/dev/null", "-i", filepath.Join(w.dir, "key"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=2", "root@" + serverIP}, command...)...).CombinedOutput()
	return string(out), err
}

func (w *world) shell(from *lab.Host, command string) (string, error) {
	cmd := from.Command(w.t.Context(), "sh", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+w.dir+"/client", "HOME="+w.dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// serveWritten starts the daemon with what init has written.
func (w *world) serveWritten(args ...string) {
	w.t.Helper()
	cmd := w.server.Command(context.Background(), binary, append([]string{"serve", "--config", w.config(), "--socket", filepath.Join(w.dir, "webknock.sock")}, args...)...)
	cmd.Env = append(os.Environ(), w.env...)
	w.daemon = w.start(cmd)
	w.daemon.wait(w.t, `"serving"`)
}

// A first start by hand: look, write, check, serve on trial, knock by the line that was
// printed, log in, confirm.
func TestInitFitsTheHost(t *testing.T) {
	w := newWorld(t)
	w.sshdAt("2222")
	w.comeBySSH(aliceIP)
	if err := os.WriteFile(w.config(), []byte("# only a comment\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	dry := w.init()
	if dry.Result != "planned" || !strings.Contains(dry.Config, "ports: [2222/tcp]") || !strings.Contains(dry.Config, `address: ":80"`) || !dry.says("ssh", "sshd listens at 0.0.0.0:2222") || !dry.says("you", "come from "+aliceIP) {
		t.Errorf("%+v", dry)
	}
	if text, _ := os.ReadFile(w.config()); string(text) != "# only a comment\n" {
		t.Errorf("a dry run has written\n%s", text)
	}
	written := w.init("--start")
	if text, _ := os.ReadFile(w.config()); string(text) != written.Config || written.Config == dry.Config {
		t.Errorf("the file is\n%sand init has shown\n%s", text, written.Config)
	}
	if again := w.init("--start"); again.Config != "" || !again.says("client", "webknock enroll ssh") {
		t.Errorf("once more: %+v", again)
	}
	if !strings.Contains(written.Next, "webknock serve") {
		t.Errorf("without systemd the next command is %q", written.Next)
	}
	if _, stderr, code := w.webknock("check"); code != 0 || stderr != "" {
		t.Errorf("check: exit %d\n%s", code, stderr)
	}
	if _, stderr, code := w.webknock("init", "--write"); code != 1 || !strings.Contains(stderr, "has a configuration already") {
		t.Errorf("once more: exit %d, %s", code, stderr)
	}

	w.serveWritten("--confirm", "10m")
	w.mustPass(w.alice, serverIP, 2222, false)
	if out, err := w.shell(w.alice, written.Client.Curl); exitCode(err) != 56 || out != "" {
		t.Errorf("%s: %v, %s", written.Client.Curl, err, out)
	}
	until(t, "the door opens", func() bool { return w.passes(w.alice, serverIP, 2222) })
	w.mustPass(w.mallory, serverIP, 2222, false)

	// The session that was up before proves nothing, and none at all neither.
	for _, session := range []string{w.env[0], "SSH_CONNECTION="} {
		w.env[0] = session
		if _, stderr, code := w.webknock("confirm"); code != 1 || !strings.Contains(stderr, "--anyway") {
			t.Errorf("confirm under %s: exit %d, %s", session, code, stderr)
		}
	}
	out, err := w.logIn(w.alice, "2222", binary, "confirm", "--config", w.config(), "--socket", filepath.Join(w.dir, "webknock.sock"))
	if err != nil || !strings.Contains(out, "confirmed") {
		t.Errorf("confirm by a new session: %v, %s", err, out)
	}
	w.must("close", "--all")

	// The profile and the lines for ssh, as they were printed.
	if out, err := w.shell(w.alice, "webknock profile add home <<'END'\n"+written.Client.Profile+"END\n"); err != nil {
		t.Fatalf("profile add: %v\n%s", err, out)
	}
	w.mustPass(w.alice, serverIP, 2222, false)
	config := filepath.Join(w.dir, "ssh_config")
	if err := os.WriteFile(config, []byte(written.Client.SSHConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := w.shell(w.alice, "ssh -F "+config+" -i "+w.dir+"/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@home echo in"); err != nil || out != "in\n" {
		t.Errorf("ssh home: %v, %s", err, out)
	}
	w.mustPass(w.mallory, serverIP, 2222, false)
	w.daemon.stop(t, syscall.SIGTERM)
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// One-time tickets, for a user that init makes; behind nginx, with the snippet as init
// prints it.
func TestInitBehindASite(t *testing.T) {
	w := newWorld(t)
	w.sshdAt("2222")
	w.comeBySSH(aliceIP)
	site := func(snippet string) *process {
		t.Helper()
		file := filepath.Join(w.dir, "nginx.conf")
		if err := os.WriteFile(file, []byte("daemon off; master_process off; pid "+w.dir+"/nginx.pid; error_log stderr notice; events {}\nhttp { access_log off; server { listen 80; listen [::]:80; location / { return 200 site; }\n"+snippet+"\n} }\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := w.start(w.server.Command(t.Context(), "nginx", "-c", file))
		until(t, "nginx answers", func() bool { out, _ := w.curl(w.alice, "http://"+serverIP+"/"); return out == "site" })
		return p
	}
	before := site("")
	if _, stderr, code := w.webknock("init", "--start"); code != 1 || !strings.Contains(stderr, "nginx has to pass knocks on first") {
		t.Errorf("init --start: exit %d, %s", code, stderr)
	}
	if _, err := os.Stat(w.config()); !os.IsNotExist(err) {
		t.Errorf("what failed has written: %v", err)
	}
	written := w.init("--write", "--user", "alice")
	if written.Site == nil || written.Site.Program != "nginx" || written.Client.Server != "http://"+serverIP || written.Client.Curl != "" {
		t.Fatalf("%+v", written)
	}
	if info, err := os.Stat(filepath.Join(w.dir, "alice.totp")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret: %v, %v", info, err)
	}
	before.stop(t, syscall.SIGTERM)
	site(written.Site.Snippet)
	w.serveWritten()
	w.mustPass(w.alice, serverIP, 2222, false)
	if out, err := w.shell(w.alice, "webknock profile add home <<'END'\n"+written.Client.Profile+"END\nwebknock knock home"); err != nil {
		t.Errorf("knock: %v\n%s", err, out)
	}
	if out, err := w.logIn(w.alice, "2222", "echo", "in"); err != nil || out != "in\n" {
		t.Errorf("ssh: %v, %s", err, out)
	}
	w.mustPass(w.mallory, serverIP, 2222, false)
}

// Where another firewall stops knocks, init says by what command it lets them through,
// and starts nothing before.
func TestInitBesideOtherRules(t *testing.T) {
	w := newWorld(t)
	w.sshdAt("2222")
	w.comeBySSH(aliceIP)
	w.load("table inet filter { chain input { type filter hook input priority 0; policy drop; ct state established accept; tcp dport 2222 accept; }\n }")
	if _, stderr, code := w.webknock("init", "--start"); code != 1 || !strings.Contains(stderr, "another firewall keeps clients from port 80, and nothing has changed (nft insert rule inet filter input tcp dport 80 accept") {
		t.Errorf("init --start: exit %d, %s", code, stderr)
	}
	if _, err := os.Stat(w.config()); !os.IsNotExist(err) {
		t.Errorf("what failed has written: %v", err)
	}
	dry := w.init()
	if len(dry.Commands) != 1 {
		t.Fatalf("commands %q", dry.Commands)
	}
	w.sh(dry.Commands[0])
	written := w.init("--write")
	if len(written.Commands) != 0 {
		t.Errorf("after the command: %q", written.Commands)
	}
	w.serveWritten()
	w.shell(w.alice, written.Client.Curl)
	until(t, "the door opens", func() bool { return w.passes(w.alice, serverIP, 2222) })
	w.mustPass(w.mallory, serverIP, 2222, false)
}
