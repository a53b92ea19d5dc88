package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// CommandCapabilities are what the process that runs commands has: to become the users
// that commands run as, and to end those that hang.
const CommandCapabilities = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_KILL

// rootsCapabilities are what such a process of root has besides, to execute programs in
// folders of others. That is no more power: whoever is root and executes something has all
// that the host leaves root.
const rootsCapabilities = 1 << unix.CAP_DAC_OVERRIDE

// Reserve makes the capabilities of CommandCapabilities worthless to this process, unless
// it is root: they stay permitted, to be handed to the process that runs commands, also if
// that has ended and another one is started, and for KillGroup. It is called before Start.
func Reserve() error {
	held, err := capabilities()
	if err != nil || os.Geteuid() == 0 || held[0].Permitted&CommandCapabilities == 0 {
		return err
	}
	held[0].Effective &^= CommandCapabilities
	held[0].Inheritable &^= CommandCapabilities // the ambient set follows
	return setAll(held)
}

// setAll sets the capabilities of all threads.
func setAll(sets [2]unix.CapUserData) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if _, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0); errno != 0 {
		return fmt.Errorf("capabilities: %w", errno)
	}
	return nil
}

// KillGroup ends a process group of a command, of whatever user, by what Reserve has laid
// aside.
func KillGroup(group int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	held, err := capabilities()
	if err != nil {
		return err
	}
	raised := held
	raised[0].Effective |= held[0].Permitted & (1 << unix.CAP_KILL)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &raised[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	err = unix.Kill(-group, unix.SIGKILL)
	return errors.Join(err, unix.Capset(&header, &held[0]))
}

// giveUpForCommands takes from the calling thread what the process that runs commands is
// not to have. Root gets all again when it executes that process, which then gives it up
// itself: see CommandsSelf.
func giveUpForCommands(r *Report, _ bool) error {
	if os.Geteuid() == 0 {
		return nil
	}
	held, err := capabilities()
	if err != nil {
		return err
	}
	keep := held[0].Permitted & CommandCapabilities
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("ambient capabilities: %w", err)
	}
	left := [2]unix.CapUserData{{Effective: keep, Permitted: keep, Inheritable: keep}}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &left[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	for c := range uintptr(32) {
		if keep&(1<<c) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("ambient capabilities: %w", err)
		}
	}
	return nil
}

// CommandsSelf confines the process that runs commands, with all its threads. Nothing
// that its children would inherit is taken: they may use files and the network, and gain
// what programs give to who executes them, as far as the host lets the daemon's children.
func CommandsSelf() (r Report) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		r.warn("prctl: %v", err)
	}
	held, err := capabilities()
	if err != nil {
		r.warn("capabilities: %v", err)
		return r
	}
	keep := held[0].Permitted & MayKeep(os.Geteuid())
	if err := setAll([2]unix.CapUserData{{Effective: keep, Permitted: keep}}); err != nil {
		r.warn("%v", err)
		return r
	}
	if keep == 0 {
		r.took(Capabilities)
	} else {
		r.took(Others)
	}
	return r
}

// MayKeep returns which capabilities the process that runs commands keeps if it has them.
func MayKeep(uid int) uint32 {
	if uid == 0 {
		return CommandCapabilities | rootsCapabilities
	}
	return CommandCapabilities
}
