//go:build hosts

package hosts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"webknock/integration/lab"
)

var (
	binary  string // the program under test
	scratch string // a directory that is deleted when the tests end
)

func TestMain(m *testing.M) {
	lab.Enter()
	os.Exit(func() int {
		err := lab.Need("chromium", "conntrack", "curl", "dbus-daemon", "debootstrap", "dockerd", "firefox-esr", "firewalld", "ip", "lintian", "nft", "node", "nsenter", "prometheus", "promtool", "rpm", "rpmlint", "systemd-nspawn")
		if err == nil && os.Getuid() != 0 {
			err = fmt.Errorf("these tests need root")
		}
		if err == nil {
			err = lab.PrivateRun()
		}
		if err == nil { // a name for browsers, which treat addresses in another way
			err = lab.PrivateFile("/etc/hosts", "127.0.0.1 localhost\n"+serverIP+" "+home+"\n")
		}
		if err == nil { // whatever the host has, sshd lets root in by its key
			err = lab.PrivateFile("/etc/shadow", "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n")
		}
		if err == nil {
			scratch, err = os.MkdirTemp("", "webknock-hosts-")
		}
		if err == nil {
			defer os.RemoveAll(scratch)
			binary = filepath.Join(scratch, "webknock")
			build := exec.Command("go", "build", "-o", binary, "../../cmd/webknock")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
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
