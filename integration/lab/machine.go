package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Machine is a Debian on a host of the lab, with systemd as process 1, run by
// systemd-nspawn(1). Its network is up before systemd starts, as that of a
// container is. A reboot inside boots it again, with an empty ruleset.
type Machine struct {
	Host *Host
	Root string // where its files are, seen from here

	name    string
	layers  string // of the overlay, if it is one
	stopped chan struct{}

	mu      sync.Mutex
	nspawn  *exec.Cmd
	closing bool
	console bytes.Buffer
	boots   int
}

var machines atomic.Int64

// Machine prepares a machine on h, whose files are those of tree and changes of
// its own, kept in dir. Boot starts it, and Close ends it.
func (h *Host) Machine(tree, dir string) (*Machine, error) {
	m := &Machine{Host: h, Root: filepath.Join(dir, "root"), name: fmt.Sprintf("lab-%d-%d", os.Getpid(), machines.Add(1))}
	layers := filepath.Join(dir, "layers")
	upper, work := filepath.Join(layers, "upper"), filepath.Join(layers, "work")
	if err := errors.Join(os.Mkdir(m.Root, 0o755), os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return nil, err
	}
	if syscall.Mount("overlay", m.Root, "overlay", 0, "lowerdir="+tree+",upperdir="+upper+",workdir="+work) == nil {
		m.layers = layers
		return m, nil
	}
	// Where the directory is an overlay already.
	if out, err := exec.Command("cp", "-a", "--reflink=auto", tree+"/.", m.Root).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cp: %w: %s", err, out)
	}
	return m, nil
}

// groups are the control groups that the machine has to itself: two machines in
// one would disturb each other.
func (m *Machine) groups() (all []string) {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if f[2] == "cgroup2" || f[2] == "cgroup" && strings.Contains(f[3], "name=systemd") {
			all = append(all, filepath.Join(f[1], m.name))
		}
	}
	return all
}

// Boot starts the machine, and returns at once.
func (m *Machine) Boot() error {
	m.stopped = make(chan struct{})
	if err := m.spawn(); err != nil {
		close(m.stopped)
		return err
	}
	go func() {
		defer close(m.stopped)
		for {
			err := m.nspawn.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 133 { // it reboots
				return
			}
			if err := m.Host.Run("nft", "flush", "ruleset"); err != nil {
				fmt.Fprintln(&lockedWriter{m}, err)
			}
			if m.spawn() != nil {
				return
			}
		}
	}()
	return nil
}

func (m *Machine) spawn() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return errors.New("the machine is being closed")
	}
	args := []string{"-c", `for g in $GROUPS_OF_ITS_OWN; do mkdir -p "$g" && echo $$ >"$g/cgroup.procs" || exit; done; exec "$@"`, "sh",
		"unshare", "--pid", "--fork", "--kill-child", "--mount-proc", // so that all ends with it
		"systemd-nspawn", "--quiet", "--settings=no", "--directory=" + m.Root, "--machine=" + m.name, "--register=no", "--keep-unit",
		"--network-namespace-path=/proc/self/ns/net", "--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_ADMIN",
		"--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self", // as a host has them
		"--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe", "--boot"}
	cmd := m.Host.Command(context.Background(), "sh", args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "GROUPS_OF_ITS_OWN="+strings.Join(m.groups(), " "))
	console := &lockedWriter{m}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	m.nspawn = cmd
	m.boots++
	return nil
}

type lockedWriter struct{ m *Machine }

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.m.console.Write(p)
}

// Console returns what the machine has printed.
func (m *Machine) Console() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.console.String()
}

// Boots counts how often the machine has been started.
func (m *Machine) Boots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boots
}

// init returns the number of process 1, seen from here.
func (m *Machine) init() (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nspawn == nil {
		return 0, errors.New("the machine does not run")
	}
	// It is the one that is 1 in a namespace inside that of unshare(1).
	found := 0
	for look := children(m.nspawn.Process.Pid); len(look) > 0; look = look[1:] {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", look[0]))
		_, line, _ := strings.Cut(string(status), "\nNSpid:")
		line, _, _ = strings.Cut(line, "\n")
		if f := strings.Fields(line); len(f) > 2 && f[len(f)-1] == "1" {
			found = look[0]
			break
		}
		look = append(look, children(look[0])...)
	}
	if found == 0 {
		return 0, errors.New("the machine has no process 1 yet")
	}
	return found, nil
}

func children(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		text, _ := os.ReadFile(file)
		for _, f := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(f); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Command returns a command that runs inside, as root.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	pid, err := m.init()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "TERM=dumb", name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Err = errors.Join(cmd.Err, err)
	return cmd
}

// Booted waits until all that starts at boot has started, of the start of this
// number (1 is the first), and returns what systemd then says of the system:
// "running", or "degraded" if a unit has failed.
func (m *Machine) Booted(ctx context.Context, number int) (string, error) {
	for {
		if m.Boots() >= number {
			out, _ := m.Command(ctx, "systemctl", "is-system-running", "--wait").CombinedOutput()
			switch state := strings.TrimSpace(string(out)); state {
			case "running", "degraded":
				return state, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the machine has not booted: %w", ctx.Err())
		case <-m.stopped:
			return "", errors.New("the machine has stopped")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Close ends the machine at once, like a loss of power, and deletes its
// control groups. Its directory stays.
func (m *Machine) Close() error {
	m.mu.Lock()
	m.closing = true
	if m.nspawn != nil {
		m.nspawn.Process.Kill() // and with it all that it has started
	}
	m.mu.Unlock()
	if m.stopped != nil {
		<-m.stopped
	}
	for _, g := range m.groups() {
		for range 500 { // until the last of its processes is gone
			if exec.Command("find", g, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run(); !exists(g) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if m.layers != "" {
		return syscall.Unmount(m.Root, syscall.MNT_DETACH)
	}
	return nil
}
