package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Account is the user that a confined process runs as, if it is started by root.
// Without such a user that is nobody's number.
const Account = "webknock"

const nobody = 65534

// A Command is what to start: this program, in a process with little power.
type Command struct {
	Args        []string
	Environment []string
	Files       []*os.File // its descriptors from 3 on
	Stderr      *os.File

	// RunsCommands leaves the process the user, and the capabilities of
	// CommandCapabilities that this one has. Commands may gain what they could gain
	// without webknock (see CommandsSelf). It does not end with this process by itself.
	RunsCommands bool
}

// A Process is one that was started.
type Process struct {
	PID    int
	User   string // whom it runs as
	Report        // what was taken at its start
	ended  chan struct{}
	err    error
	cmd    *exec.Cmd
}

// Start starts a process. It ends when this one does.
func Start(c Command) (*Process, error) {
	if err := closeOnExec(); err != nil {
		return nil, err
	}
	p := &Process{User: currentUser()}
	if os.Geteuid() != 0 || c.RunsCommands {
		return p, p.start(c, nil)
	}
	name, credential := account(&p.Report)
	err := p.start(c, credential)
	if err == nil {
		p.User = name
		p.Confined = append([]string{User}, p.Confined...)
		return p, nil
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EACCES) {
		return p, err
	}
	// A user namespace with one user, or a file that others may not execute.
	p.Report = Report{}
	p.warn("no user of its own: it cannot be started as %s (%v)", name, err)
	return p, p.start(c, nil)
}

// closeOnExec has no process inherit what this one was started with, as sockets from
// systemd.
func closeOnExec() error {
	if unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	descriptors, err := os.ReadDir("/proc/self/fd") // before Linux 5.11
	for _, d := range descriptors {
		if fd, err := strconv.Atoi(d.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return err
}

func currentUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// account returns whom a process that root starts runs as.
func account(r *Report) (name string, c *syscall.Credential) {
	u, err := user.Lookup(Account)
	if err == nil {
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err = errors.Join(err1, err2); err == nil && uid != 0 && gid != 0 {
			return Account, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	r.warn("there is no user %s: it runs as user %d, as other programs may (useradd --system --user-group %s)", Account, nobody, Account)
	return strconv.Itoa(nobody), &syscall.Credential{Uid: nobody, Gid: nobody}
}

// start starts the process, as another user unless credential is nil.
//
// Capabilities and no_new_privs belong to a thread, and a child has those of the
// thread that forks. So one thread gives them up, forks, and does nothing else. It
// lives as long as the child, which would otherwise get the signal for the end of
// its parent.
func (p *Process) start(c Command, credential *syscall.Credential) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	p.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{"webknock"}, c.Args...), Env: append([]string{}, c.Environment...), Dir: "/", // Env must not be nil: that is all of ours
		Stdin: null, Stdout: null, Stderr: c.Stderr, ExtraFiles: c.Files,
		SysProcAttr: &syscall.SysProcAttr{Credential: credential, Pdeathsig: syscall.SIGKILL},
	}
	giveUp := giveUp
	if c.RunsCommands {
		giveUp = giveUpForCommands
		p.cmd.SysProcAttr.Pdeathsig = 0
	}
	p.ended = make(chan struct{})
	started := make(chan error)
	onItsOwnThread(func() {
		err := giveUp(&p.Report, credential != nil)
		if err == nil {
			err = p.cmd.Start()
		}
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.ended)
		}
	})
	if err := <-started; err != nil {
		return err
	}
	p.PID = p.cmd.Process.Pid
	return nil
}

// onItsOwnThread runs f on a thread that does nothing else, and ends with f. That is
// never the main thread, which would not end, and by which /proc shows the process.
func onItsOwnThread(f func()) {
	begun := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			onItsOwnThread(f) // on another one, while this goroutine holds the main thread
			runtime.UnlockOSThread()
			close(begun)
			return
		}
		close(begun)
		f()
	}()
	<-begun
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err says how the process has ended.
func (p *Process) Err() error {
	<-p.ended
	if p.err == nil {
		return errors.New("it has ended by itself")
	}
	return p.err
}

// Kill ends the process, and returns when it has ended.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// giveUp takes from the calling thread what its children are not to have. If they
// change their user, that takes the capabilities that it needs.
func giveUp(r *Report, becomes bool) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	held, err := capabilities()
	if err != nil {
		return err
	}
	// Without CAP_SETPCAP the bounding set stays, which no_new_privs makes worthless.
	if held[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := uintptr(0); ; c++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); errors.Is(err, unix.EINVAL) {
				break // there are no more
			} else if err != nil {
				return fmt.Errorf("bounding set of capabilities: %w", err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("ambient capabilities: %w", err)
	}
	var keep uint32
	if becomes {
		keep = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID // gone when the user changes
	}
	left := [2]unix.CapUserData{{Effective: held[0].Effective & keep, Permitted: held[0].Permitted & keep}}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &left[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	r.took(Capabilities)
	r.took(NoNewPrivs)
	return nil
}

// capabilities returns those of the calling thread.
func capabilities() (held [2]unix.CapUserData, err error) {
	err = unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &held[0])
	return held, err
}

// Here describes the process that calls it.
func Here(name string) Info {
	i := Info{Name: name, PID: os.Getpid(), User: currentUser()}
	state, err := Examine(i.PID)
	if err != nil {
		i.Warnings = []string{"what the kernel says of its confinement cannot be read: " + err.Error()}
	}
	for _, c := range []struct {
		what string
		took bool
	}{{User, state.UID != 0}, {NoNewPrivs, state.NoNewPrivs}, {Seccomp, state.Seccomp}} {
		if c.took && err == nil {
			i.Confined = append(i.Confined, c.what)
		}
	}
	return i
}

// A State is how the kernel shows a process.
type State struct {
	UID          int
	Groups       []string // supplementary
	Capabilities uint64   // in any set but the bounding one
	Bounding     uint64
	NoNewPrivs   bool
	Seccomp      bool
}

// Examine returns how the kernel shows a process.
func Examine(pid int) (s State, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(value)
		if name == "Groups" {
			s.Groups = fields
			continue
		}
		if len(fields) == 0 {
			continue
		}
		switch name {
		case "Uid":
			s.UID, err = strconv.Atoi(fields[1]) // the effective one
		case "CapInh", "CapPrm", "CapEff", "CapAmb":
			var set uint64
			set, err = strconv.ParseUint(fields[0], 16, 64)
			s.Capabilities |= set
		case "CapBnd":
			s.Bounding, err = strconv.ParseUint(fields[0], 16, 64)
		case "NoNewPrivs":
			s.NoNewPrivs = fields[0] == "1"
		case "Seccomp":
			s.Seccomp = fields[0] == "2"
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}
