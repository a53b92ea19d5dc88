// Package lab makes hosts in network namespaces, joined by a switch, that leave
// nothing behind: they end with the process that made them.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside marks the environment of a process that is in namespaces of its own.
const inside = "WEBKNOCK_LAB"

// Enter returns at once in a process that it has started before. Otherwise it
// starts this program again, in namespaces of its own (for network and mounts,
// and, for an ordinary user, for users as well), and exits as that does. So
// nothing that is done after it can touch the host's network.
func Enter() {
	if os.Getenv(inside) != "" {
		return
	}
	if _, err := os.Stat("/proc/self/ns/net"); err != nil {
		fmt.Fprintln(os.Stderr, "lab: /proc is missing, or the kernel has no network namespaces (in a chroot: mount -t proc proc /proc)")
		os.Exit(1)
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	} else {
		// Root inside, and beside it the user's subordinate ids (subuid(5)),
		// which sshd needs.
		cmd = exec.Command("unshare", append([]string{"--user", "--map-root-user", "--map-auto", "--net", "--mount", "--", self}, os.Args[1:]...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The process inside is told of the end, and cleans up before.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	err = cmd.Start()
	if err == nil {
		go func() {
			for s := range signals {
				cmd.Process.Signal(s)
			}
		}()
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.Exited():
		os.Exit(exit.ExitCode())
	}
	if os.Getuid() == 0 {
		fmt.Fprintln(os.Stderr, "lab: make namespaces for network and mounts:", err, "(root needs CAP_SYS_ADMIN, which a container may lack)")
	} else {
		fmt.Fprintln(os.Stderr, "lab:", err, "(an ordinary user needs user namespaces and the package uidmap)")
	}
	os.Exit(1)
}

// Need fails with what to install if some of the programs are missing.
func Need(programs ...string) error {
	var missing []string
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s (make installs what its targets need, as root)", strings.Join(missing, " "))
	}
	return nil
}

// ReadOnly has every write into these directories fail, for this process and
// those that it starts, save into the directory for temporary files. So a test
// that changes the host is found at once. PrivateRun has to come before.
func ReadOnly(directories ...string) error {
	for _, dir := range directories {
		var s unix.Statfs_t
		err := syscall.Mount(dir, dir, "", syscall.MS_BIND|syscall.MS_REC, "")
		if err == nil {
			err = unix.Statfs(dir, &s)
		}
		if err == nil { // an ordinary user may not take flags away
			keep := uintptr(s.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
			err = syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY|keep, "")
		}
		if err != nil {
			return fmt.Errorf("make %s read-only: %w", dir, err)
		}
	}
	return nil
}

// PrivateRun gives this process a /run of its own, with the directory that
// sshd wants. The host's stays as it is.
func PrivateRun() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w (/ has to be a mount point: in a chroot, mount --bind TREE TREE before you enter it)", err)
	}
	return errors.Join(
		syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"),
		os.Mkdir("/run/sshd", 0o755),
	)
}

// PrivateEmpty puts an empty directory over one, for this process and those that
// it starts. PrivateRun has to come before.
func PrivateEmpty(over string) error {
	if err := syscall.Mount("tmpfs", over, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("put an empty directory over %s: %w", over, err)
	}
	return nil
}

// PrivateCopy puts a directory that holds copies of others' contents over
// another, for this process and those that it starts. PrivateRun has to come
// before.
func PrivateCopy(over, dir string, sources ...string) error {
	if out, err := exec.Command("cp", append(append([]string{"-r"}, sources...), dir)...).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return syscall.Mount(dir, over, "", syscall.MS_BIND, "")
}

// PrivateFile puts a file over another, for this process and those that it
// starts. PrivateRun has to come before.
func PrivateFile(path, content string) error {
	f, err := os.CreateTemp("/run", "private-")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		return err
	}
	return syscall.Mount(f.Name(), path, "", syscall.MS_BIND, "")
}

// A Net is a switch that hosts are plugged into.
type Net struct {
	bridge string
	hosts  []*Host
}

// A Host is a network namespace, and the processes in it.
type Host struct {
	Name   string
	holder *exec.Cmd // keeps the namespace
}

// New makes a switch. Call Close in the end.
func New() (*Net, error) {
	n := &Net{bridge: fmt.Sprintf("lab%d", nets.Add(1))}
	return n, errors.Join(
		ip("link", "set", "lo", "up"),
		ip("link", "add", n.bridge, "type", "bridge"),
		ip("link", "set", n.bridge, "up"),
	)
}

var nets atomic.Int64

// Host adds a host with the given addresses, each with its prefix length.
func (n *Net) Host(name string, addresses ...string) (*Host, error) {
	h := &Host{Name: name, holder: exec.Command("sleep", "infinity")}
	h.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := h.holder.Start(); err != nil {
		return nil, err
	}
	n.hosts = append(n.hosts, h)
	port := fmt.Sprintf("%sp%d", n.bridge, len(n.hosts))
	err := errors.Join(
		ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(h.holder.Process.Pid)),
		ip("link", "set", port, "master", n.bridge, "up"),
		h.Run("ip", "link", "set", "lo", "up"),
		h.Run("ip", "link", "set", "eth0", "up"),
	)
	for _, a := range addresses {
		args := []string{"address", "add", a, "dev", "eth0"}
		if strings.Contains(a, ":") {
			args = append(args, "nodad") // usable at once
		}
		err = errors.Join(err, h.Run("ip", args...))
	}
	return h, err
}

// Close ends the hosts and removes the switch.
func (n *Net) Close() error {
	for _, h := range n.hosts {
		h.holder.Process.Kill()
		h.holder.Wait()
	}
	return ip("link", "delete", n.bridge)
}

// Command returns a command that runs on the host, and ends with this process.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", h.holder.Process.Pid), name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Run runs a command on the host.
func (h *Host) Run(name string, args ...string) error {
	if out, err := h.Command(context.Background(), name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s %s: %w: %s", h.Name, name, strings.Join(args, " "), err, out)
	}
	return nil
}

// Do calls f on a thread that is in the host's network meanwhile.
func (h *Host) Do(f func() error) error {
	done := make(chan error)
	go func() {
		// If the thread cannot be brought back it stays locked, and ends with
		// this goroutine. Otherwise it must not end: the processes that it
		// started would end with it.
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid))
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
			err = f()
		}
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
