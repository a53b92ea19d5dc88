package setup

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// Facts are what was found on a host.
type Facts struct {
	SSH       []Socket // where clients reach the SSH server, lowest port first
	Session   Session  // of the administrator; zero: none, or not known
	Listening []Socket // all sockets that wait for connections
	UFW       bool     // is enabled
	Firewalld bool     // is running
	Zone      string   // firewalld's default one
	Docker    bool     // is running
	Systemd   bool     // runs this host
	Hostname  string
}

// Find looks around on this host. It needs root to know which process has which socket.
func Find(ctx context.Context) (Facts, error) {
	f, err := find("/", func(args ...string) string {
		out, _ := exec.CommandContext(ctx, args[0], args[1:]...).Output() // what fails says nothing
		return string(out)
	})
	f.Session, _ = CurrentSession()
	f.addSession()
	f.Hostname, _ = os.Hostname()
	return f, err
}

// find looks around below a root. Run returns what a program prints.
func find(root string, run func(args ...string) string) (f Facts, err error) {
	if f.Listening, err = listening(root); err != nil {
		return f, err
	}
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		return err == nil
	}
	setting := func(path, key string) string {
		text, _ := os.ReadFile(filepath.Join(root, path))
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.EqualFold(strings.TrimSpace(name), key) {
				return strings.Trim(strings.TrimSpace(value), `"'`)
			}
		}
		return ""
	}
	f.Systemd = exists("run/systemd/system")
	f.UFW = strings.EqualFold(setting("etc/ufw/ufw.conf", "ENABLED"), "yes")
	f.Firewalld = exists("run/firewalld.pid") || exists("run/firewalld")
	if f.Firewalld {
		f.Zone = orPublic(setting("etc/firewalld/firewalld.conf", "DefaultZone"))
	}
	f.Docker = exists("run/docker.sock")

	var handed []uint16 // by systemd, which has the socket until sshd is started
	if f.Systemd && slices.ContainsFunc(f.Listening, func(s Socket) bool { return s.Program == systemd }) {
		handed = portsOf(run("systemctl", "show", "--property=Listen", "ssh.socket", "sshd.socket"))
	}
	for _, s := range f.Listening {
		if s.outside() && (slices.Contains(sshPrograms, s.Program) || s.Program == systemd && slices.Contains(handed, s.Address.Port())) {
			f.SSH = append(f.SSH, s)
		}
	}
	if len(f.SSH) == 0 { // not root, or none of the known servers
		f.SSH = asConfigured(f.Listening, run("sshd", "-T"))
	}
	return f, nil
}

// asConfigured returns the sockets at the ports of sshd's configuration, as sshd -T
// prints it, whoever has them: for one who may not know.
func asConfigured(all []Socket, effective string) (found []Socket) {
	for line := range strings.Lines(effective) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "port" {
			for _, s := range all {
				if s.outside() && s.Program == "" && s.Address.Port() == parsePort(f[1]) {
					found = append(found, s)
				}
			}
		}
	}
	return found
}

// addSession takes the port by which the administrator has come for one of the SSH
// server's, if that was not found: with inetd, for example.
func (f *Facts) addSession() {
	port := f.Session.Server.Port()
	if port == 0 || slices.Contains(f.SSHPorts(), port) {
		return
	}
	for _, s := range f.Listening {
		if s.Address.Port() == port && s.outside() {
			f.SSH = append(f.SSH, s)
		}
	}
}

// SSHPorts returns the ports of the SSH server, each once.
func (f *Facts) SSHPorts() (ports []uint16) {
	for _, s := range f.SSH {
		if !slices.Contains(ports, s.Address.Port()) {
			ports = append(ports, s.Address.Port())
		}
	}
	return ports
}

// At returns the sockets at a port.
func (f *Facts) At(port uint16) (sockets []Socket) {
	for _, s := range f.Listening {
		if s.Address.Port() == port {
			sockets = append(sockets, s)
		}
	}
	return sockets
}
