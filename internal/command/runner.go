package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxRunning = 8   // commands that run at once
	maxWaiting = 256 // commands in the queue
)

const (
	killGrace = 2 * time.Second // from SIGTERM to SIGKILL
	// When the daemon stops, running commands get stopMoment to end by themselves, and
	// then stopGrace instead of killGrace: a stop takes two seconds at most.
	stopMoment = 300 * time.Millisecond
	stopGrace  = 300 * time.Millisecond
)

// A Runner runs up to maxRunning commands at once. Others wait in a queue.
type Runner struct {
	// Ended, if set before Run, is called with the result of each command, also of one
	// that could not be started.
	Ended func(Command, Occasion, Result)

	log      *slog.Logger
	waiting  chan job
	slots    chan struct{} // holds a value for every command that runs
	stopping chan struct{}
	running  sync.WaitGroup
	lost     atomic.Uint64
}

// A Result says what became of a command.
type Result string

// The results.
const (
	Done       Result = "done"
	Failed     Result = "failed"
	Killed     Result = "killed"      // its time was over, or webknock stopped
	NotStarted Result = "not started" // it could not be
)

type job struct {
	command  Command
	occasion Occasion
}

// NewRunner returns a runner that runs nothing until Run.
func NewRunner(log *slog.Logger) *Runner {
	return &Runner{log: log, waiting: make(chan job, maxWaiting), slots: make(chan struct{}, maxRunning), stopping: make(chan struct{})}
}

// Submit has a command run when its turn comes. It does not wait; a command
// that finds too many waiting is lost.
func (r *Runner) Submit(c Command, o Occasion) {
	select {
	case r.waiting <- job{c, o}:
	default:
		r.lost.Add(1)
	}
}

// Lost returns how many commands were never run since too many waited.
func (r *Runner) Lost() uint64 { return r.lost.Load() }

// Run runs what is submitted until ctx is done. What waits then is not run.
func (r *Runner) Run(ctx context.Context) {
	for {
		select {
		case next := <-r.waiting:
			select {
			case r.slots <- struct{}{}:
				r.start(next)
				continue
			case <-ctx.Done():
				r.abandon(1 + len(r.waiting))
			}
		case <-ctx.Done():
			r.abandon(len(r.waiting))
		}
		return
	}
}

// abandon says how many commands wait in vain.
func (r *Runner) abandon(count int) {
	if count > 0 {
		r.log.Warn("commands are not run: webknock stops", "count", count)
	}
}

// Stop ends the commands that run: after a moment, in which some may come to
// their end, they are killed. Nothing may be started any more.
func (r *Runner) Stop() {
	close(r.stopping)
	r.running.Wait()
}

// start runs a command whose slot is taken already, and does not wait for it.
func (r *Runner) start(j job) {
	r.running.Go(func() {
		defer func() { <-r.slots }()
		result := r.run(j.command, j.occasion, r.log.With(j.occasion.attributes(j.command)...))
		if r.Ended != nil {
			r.Ended(j.command, j.occasion, result)
		}
	})
}

// run runs a command, and returns when it has ended: when its process has, and
// nobody holds its output any more, or when its time is over and it was killed
// with all its process group.
func (r *Runner) run(c Command, o Occasion, log *slog.Logger) Result {
	out, in, err := os.Pipe()
	if err != nil {
		log.Error("command cannot be started", "error", err)
		return NotStarted
	}
	defer out.Close()
	cmd := &exec.Cmd{
		Path: c.Argv[0], Args: c.Argv, Dir: "/", Env: o.environment(c), Stdout: in, Stderr: in,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: c.Credential},
	}
	began := time.Now()
	err = start(cmd)
	in.Close()
	if err != nil {
		log.Error("command cannot be started", "error", explain(err, c))
		return NotStarted
	}
	pid := cmd.Process.Pid
	log.Info("command started", "pid", pid)

	lost := make(chan int, 1)
	exited, silent, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(silent)
		lost <- logLines(log, out)
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
	killed := r.watch(pid, c.Timeout, done, exited, log)
	out.Close() // who has left the group may hold the other end
	select {
	case <-exited:
	default: // it could not be killed
		go cmd.Wait()
		return Killed
	}
	log = log.With("duration", time.Since(began).Round(time.Millisecond).Seconds())
	if n := <-lost; n > 0 {
		log = log.With("lines_lost", n)
	}
	switch err := cmd.Wait(); {
	case killed != "":
		log.Warn("command killed", "reason", killed)
		return Killed
	case err != nil:
		log.Warn("command failed", "error", err)
		return Failed
	}
	log.Info("command ended")
	return Done
}

// watch returns when a command is done. If the command times out or the runner stops first,
// watch kills its process group and returns the reason. Nobody waits for (wait(2)) the process
// until then, so that the kernel cannot give its id to another group.
func (r *Runner) watch(pid int, timeout time.Duration, done, exited <-chan struct{}, log *slog.Logger) (reason string) {
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
	case <-r.stopping:
		timer.Reset(stopMoment)
		select {
		case <-done:
			return ""
		case <-timer.C:
		}
		reason, grace = "webknock stops", stopGrace
	}
	kill(pid, unix.SIGTERM, log)
	timer.Reset(grace)
	select {
	case <-done:
	case <-timer.C:
	}
	kill(pid, unix.SIGKILL, log) // those who did not heed the first, if there are any
	timer.Reset(grace)
	select {
	case <-exited:
	case <-timer.C:
	}
	return reason
}

// kill sends a signal to a process group.
func kill(group int, signal syscall.Signal, log *slog.Logger) {
	if err := unix.Kill(-group, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		log.Error("command cannot be killed", "pid", group, "error", fmt.Errorf("%w (what runs as another user takes CAP_KILL)", err))
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
