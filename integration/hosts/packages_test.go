//go:build hosts

package hosts

import (
	"bufio"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// dist copies the tree to a directory and makes packages of it there.
func dist(t *testing.T, dir, version string, options ...string) (packages string) {
	t.Helper()
	copied := exec.Command("sh", "-c", `cd ../.. && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$0"`, dir)
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
	run := exec.Command("make", "-C", dir, "dist", "VERSION="+version, "DATE=1700000000")
	run.Env = append(append(os.Environ(), "MAINTAINER=webknock <webknock@example.org>"), options...)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("make dist: %v\n%s", err, out)
	}
	return filepath.Join(dir, "dist")
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	found, _ := filepath.Glob(pattern)
	if len(found) != 1 {
		t.Fatalf("%s: %q, want one file", pattern, found)
	}
	return found[0]
}

// One commit gives the same bytes, in whatever folder.
func TestPackagesAreReproducible(t *testing.T) {
	t.Parallel()
	one, other := t.TempDir(), filepath.Join(t.TempDir(), "a", "longer", "path")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	first, second := dist(t, one, "v1.0.0"), dist(t, other, "v1.0.0")
	sums := read(t, first+"/SHA256SUMS")
	if again := read(t, second+"/SHA256SUMS"); again != sums {
		t.Errorf("the checksums differ:\n%s\n%s", sums, again)
	}
	if n := strings.Count(sums, "\n"); n != 12 {
		t.Errorf("%d files, want a program, a list of what is linked and four packages for each of two processors:\n%s", n, sums)
	}
	if out, err := exec.Command("sh", "-c", "cd "+first+" && sha256sum --check --quiet SHA256SUMS").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Run("linters", func(t *testing.T) {
		if out, err := exec.Command("lintian", "--allow-root", "--fail-on", "error", only(t, first+"/*amd64.deb")).CombinedOutput(); err != nil {
			t.Errorf("lintian: %v\n%s", err, out)
		}
		out, _ := exec.Command("rpmlint", "-c", "../../cmd/webknock/package/rpmlint.toml", only(t, first+"/*x86_64.rpm")).CombinedOutput()
		if !strings.Contains(string(out), " 0 errors") {
			t.Errorf("rpmlint:\n%s", out)
		}
	})
	t.Run("rpm", func(t *testing.T) {
		root := t.TempDir()
		rpm := func(args ...string) string {
			out, err := exec.Command("rpm", append([]string{"--root", root}, args...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("rpm %v: %v\n%s", args, err, out)
			}
			return string(out)
		}
		rpm("--initdb")
		rpm("--install", "--nodeps", "--noscripts", "--nosignature", only(t, first+"/*x86_64.rpm"))
		if out, err := exec.Command(root+"/usr/bin/webknock", "version").CombinedOutput(); err != nil || !strings.Contains(string(out), "v1.0.0") {
			t.Errorf("version: %v %s", err, out)
		}
		if out := rpm("--query", "--configfiles", "webknock"); strings.TrimSpace(out) != "/etc/webknock/webknock.yaml" {
			t.Errorf("configuration files: %s", out)
		}
		rpm("--erase", "--nodeps", "--noscripts", "webknock")
		if _, err := os.Stat(root + "/usr/bin/webknock"); err == nil {
			t.Error("the program is still there")
		}
	})
	t.Run("Alpine and Arch", func(t *testing.T) {
		for _, archive := range []string{only(t, first+"/*x86_64.apk"), only(t, first+"/*x86_64.pkg.tar.zst")} {
			list, err := exec.Command("tar", "--list", "--file", archive).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v", archive, err)
			}
			for _, file := range []string{"usr/bin/webknock", "etc/webknock/webknock.yaml", "usr/lib/systemd/system/webknock.service", "usr/share/man/man8/webknock.8.gz"} {
				if !slices.Contains(strings.Fields(string(list)), file) {
					t.Errorf("%s has no %s", filepath.Base(archive), file)
				}
			}
		}
	})
}

// Debian, from the installation to the purge: nothing is guarded before somebody says
// so, an upgrade ends no session and opens no door, a removal takes the guard away
// first, and a purge leaves nothing.
func TestADebianPackageFromInstallToPurge(t *testing.T) {
	tree := t.TempDir()
	options := []string{"ARCHES=amd64", "PACKAGERS=deb"}
	old := only(t, dist(t, tree, "v1.0.0", options...)+"/*.deb")
	m := newBareMachine(t)
	m.onDisk("install", "-m", "0644", old, m.Root+"/root/old.deb")
	m.onDisk("install", "-m", "0644", only(t, dist(t, tree, "v1.1.0", options...)+"/*.deb"), m.Root+"/root/new.deb")
	m.boot()
	before := files(t, m.Root)

	m.run("dpkg", "-i", "/root/old.deb")
	m.mustPass(m.mallory, serverIP, 22, true)
	for _, unit := range []string{"webknock.service", "webknock-guard.service"} {
		if out, _, _ := m.try("systemctl", "is-enabled", unit); strings.TrimSpace(out) != "disabled" {
			t.Errorf("after the installation %s is %s", unit, out)
		}
	}
	if out := m.run("stat", "-c", "%U:%G %a", "/etc/webknock", "/etc/webknock/webknock.yaml"); out != "root:webknock 750\nroot:webknock 640\n" {
		t.Errorf("who may read the configuration: %s", out)
	}
	m.run("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/webknock.service", "/usr/lib/systemd/system/webknock-guard.service")

	m.write("/etc/webknock/webknock.yaml", standard)
	m.run("chgrp", "webknock", "/etc/webknock/webknock.yaml")
	m.run("chmod", "640", "/etc/webknock/webknock.yaml")
	m.run("systemctl", "--quiet", "enable", "--now", "webknock-guard.service", "webknock.service")
	m.works()
	p := startPoll(t, m.mallory, ssh...)

	t.Log("upgrade under a session and a grant")
	m.knock(m.alice, serverIP, "/a", "/b", "/c")
	until(t, "the door opens", func() bool { return m.passes(m.alice, serverIP, 22) })
	session := m.sshSession()
	m.run("dpkg", "-i", "/root/new.deb")
	if out := m.run("webknock", "version"); !strings.Contains(out, "v1.1.0") {
		t.Errorf("after the upgrade: %s", out)
	}
	if out := m.run("webknock", "grants"); !strings.Contains(out, aliceIP) {
		t.Errorf("the grant is gone:\n%s", out)
	}
	if got := m.run("cat", "/etc/webknock/webknock.yaml"); got != standard {
		t.Errorf("the configuration has changed:\n%s", got)
	}
	if err := session.lives(); err != nil {
		t.Errorf("the session from before the upgrade: %v", err)
	}
	m.run("webknock", "close", "--all")
	m.works()
	m.reboot("running")
	m.works()
	m.neverOpen(p)

	m.run("dpkg", "--remove", "webknock")
	m.mustPass(m.mallory, serverIP, 22, true)
	if got := m.run("cat", "/etc/webknock/webknock.yaml"); got != standard {
		t.Errorf("a removal has taken the configuration:\n%s", got)
	}
	m.reboot("running")
	m.mustPass(m.mallory, serverIP, 22, true)
	m.run("dpkg", "--purge", "webknock")
	for _, file := range files(t, m.Root) {
		if !slices.Contains(before, file) {
			t.Errorf("the purge has left %s", file)
		}
	}
	for _, database := range []string{"passwd", "group"} {
		if out, _, code := m.try("getent", database, "webknock"); code == 0 {
			t.Errorf("the purge has left %s", out)
		}
	}
}

// files lists a tree, without what any package manager and any boot change.
func files(t *testing.T, root string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, root)
		if err != nil || slices.Contains([]string{"/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/tmp", "/var/log", "/var/cache", "/var/lib/dpkg", "/var/lib/systemd"}, name) {
			return fs.SkipDir
		}
		if name != "/etc/passwd-" && name != "/etc/group-" && name != "/etc/shadow-" && name != "/etc/gshadow-" {
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// An sshSession is a connection of alice to sshd.
type sshSession struct {
	net.Conn
	from *bufio.Reader
}

func (m *machine) sshSession() *sshSession {
	m.t.Helper()
	s := new(sshSession)
	err := m.alice.Do(func() (err error) {
		s.Conn, err = net.DialTimeout("tcp", net.JoinHostPort(serverIP, "22"), 5*time.Second)
		return err
	})
	if err == nil {
		m.t.Cleanup(func() { s.Close() })
		s.from = bufio.NewReader(s)
		s.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = s.from.ReadString('\n') // sshd's identification
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// lives has sshd answer.
func (s *sshSession) lives() error {
	s.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.Write([]byte("SSH-2.0-test\r\n")); err != nil {
		return err
	}
	_, err := s.from.ReadByte() // its key exchange
	return err
}
