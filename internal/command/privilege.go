package command

import (
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// MayBecome reports whether this process, or one that it starts, may start one as another
// user.
func MayBecome() bool { return capable(unix.CAP_SETUID) && capable(unix.CAP_SETGID) }

// MayKill reports whether this process, or one that it starts, may end one of another user.
func MayKill() bool { return capable(unix.CAP_KILL) }

// capable reports whether a capability is permitted (capabilities(7)): the keeper leaves
// these to the process that runs commands, and does not use them itself.
func capable(capability int) bool {
	_, sets, err := capabilities()
	return err == nil && sets[capability/32].Permitted&(1<<(capability%32)) != 0
}

// capabilities returns the capability sets of the calling thread.
func capabilities() (header unix.CapUserHeader, sets [2]unix.CapUserData, err error) {
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	err = unix.Capget(&header, &sets[0])
	return header, sets, err
}

// start starts a process that inherits no capability. Those of another user
// have none by execve(2) unless they are ambient; the ambient set is empty where
// the inheritable one is. A child has the sets of the thread that makes it, so
// that it is enough to empty that thread's.
func start(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header, sets, err := capabilities()
	if err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("drop the inheritable capabilities: %w", err)
	}
	return cmd.Start()
}

// Isolate keeps what the daemon has from all commands: open files that it was
// started with, and the right to make files that all may write.
func Isolate() {
	// Old kernels cannot; what webknock opens itself is closed there as well.
	unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	unix.Umask(unix.Umask(0o077) | 0o022)
}
