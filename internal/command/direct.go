package command

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An Executor runs commands.
type Executor interface {
	// Execute runs a command, and returns when it has ended. What it tells of the
	// command, it has told by then.
	Execute(Task, Told) End
	// Stop has the commands that run end: after a moment, in which some may come to
	// their end, they are killed. So are those that are started later. It does not wait.
	Stop()
}

// A Task is a command to be run.
type Task struct {
	Command   Command
	Sequence  string   // whose it is
	Variables []string // NAME=value: what it is told of the occasion
}

// A Told is told of a command that runs.
type Told interface {
	Started(pid int)
	Line(output string)
	CannotKill(pid int, why string)
}

// An End says how a command has ended.
type End struct {
	Result    Result
	Reason    string        // why it is not Done
	Lasts     bool          // it was to be killed, and could not be
	Duration  time.Duration // that it ran
	LinesLost int           // of its output: those that were not told, or not whole
}

const (
	killGrace = 2 * time.Second // from SIGTERM to SIGKILL
	// When the daemon stops, running commands get stopMoment to end by themselves, and
	// then stopGrace instead of killGrace: a stop takes two seconds at most.
	stopMoment = 300 * time.Millisecond
	stopGrace  = 300 * time.Millisecond
)

// Direct runs commands as children of this process.
type Direct struct {
	stop     sync.Once
	stopping chan struct{}
}

// NewDirect returns an executor that runs commands as children of this process.
func NewDirect() *Direct { return &Direct{stopping: make(chan struct{})} }

// Stop implements Executor.
func (d *Direct) Stop() { d.stop.Do(func() { close(d.stopping) }) }

// Execute implements Executor. A command has ended when its process has, and nobody
// holds its output any more, or when its time is over and it was killed with all its
// process group.
func (d *Direct) Execute(t Task, told Told) End {
	c := t.Command
	out, in, err := os.Pipe()
	if err != nil {
		return End{Result: NotStarted, Reason: err.Error()}
	}
	defer out.Close()
	cmd := &exec.Cmd{
		Path: c.Argv[0], Args: c.Argv, Dir: "/", Env: c.environment(t.Variables), Stdout: in, Stderr: in,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: c.Credential},
	}
	began := time.Now()
	err = start(cmd)
	in.Close()
	if err != nil {
		return End{Result: NotStarted, Reason: explain(err, c).Error()}
	}
	pid := cmd.Process.Pid
	told.Started(pid)

	lost := make(chan int, 1)
	exited, silent, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(silent)
		lost <- readLines(told.Line, out)
	}()
	go func() {
		defer close(exited)
		waitFor(pid)
	}()
	go func() {
		<-exited
		<-silent
		close(done)
	}()
	killed := d.watch(pid, c.Timeout, done, exited, told)
	out.Close() // who has left the group may hold the other end
	select {
	case <-exited:
	default: // it could not be killed
		go cmd.Wait()
		return End{Result: Killed, Reason: killed, Lasts: true}
	}
	end := End{Result: Done, Duration: time.Since(began), LinesLost: <-lost}
	switch err := cmd.Wait(); {
	case killed != "":
		end.Result, end.Reason = Killed, killed
	case err != nil:
		end.Result, end.Reason = Failed, err.Error()
	}
	return end
}

// watch returns when a command is done. If the command times out or the executor stops first,
// watch kills its process group and returns the reason. Nobody waits for (wait(2)) the process
// until then, so that the kernel cannot give its id to another group.
func (d *Direct) watch(pid int, timeout time.Duration, done, exited <-chan struct{}, told Told) (reason string) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	grace := killGrace
	select {
	case <-done:
		return ""
	case <-timer.C:
		reason = fmt.Sprintf("it takes longer than %v", timeout)
		select {
		case <-exited:
			reason = fmt.Sprintf("what it left behind holds its output for longer than %v", timeout)
		default:
		}
	case <-d.stopping:
		timer.Reset(stopMoment)
		select {
		case <-done:
			return ""
		case <-timer.C:
		}
		reason, grace = "webknock stops", stopGrace
	}
	kill(pid, unix.SIGTERM, told)
	timer.Reset(grace)
	select {
	case <-done:
	case <-timer.C:
	}
	kill(pid, unix.SIGKILL, told) // those who did not heed the first, if there are any
	timer.Reset(grace)
	select {
	case <-exited:
	case <-timer.C:
	}
	return reason
}

// kill sends a signal to a process group.
func kill(group int, signal syscall.Signal, told Told) {
	if err := unix.Kill(-group, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		told.CannotKill(group, err.Error())
	}
}

// waitFor returns when a process has ended. It stays a zombie.
func waitFor(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// explain adds a hint to why a command cannot be started.
func explain(err error, c Command) error {
	_, there := os.Stat(c.Argv[0])
	switch {
	case errors.Is(err, unix.ENOENT) && there == nil:
		return fmt.Errorf("%w (the interpreter of its first line is missing)", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (the user it runs as must be able to read and execute it)", err)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%w (a script begins with a line like #!/bin/sh)", err)
	}
	return err
}
