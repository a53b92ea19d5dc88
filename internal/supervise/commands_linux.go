package supervise

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"webknock/internal/command"
	"webknock/internal/confine"
	"webknock/internal/seam/wire"
)

// A commandsChild is a process that runs commands.
type commandsChild struct {
	*wire.CommandsClient
	process *confine.Process
	relayed chan struct{}
	info    confine.Info

	closing sync.Once
	why     error
}

// StartCommands starts this program again as the process that runs commands: the hidden
// command run.
func StartCommands(log *slog.Logger) (CommandsProcess, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	records, stderr, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer stderr.Close()
	process, err := confine.Start(confine.Command{
		Args: []string{"run"}, Environment: environment(), Files: []*os.File{theirs}, Stderr: stderr, RunsCommands: true,
	})
	if err != nil {
		ours.Close()
		records.Close()
		return nil, fmt.Errorf("start the process that runs commands: %w", err)
	}
	p := &commandsChild{process: process, relayed: make(chan struct{})}
	go func() {
		defer close(p.relayed)
		defer records.Close()
		Relay(records, "commands", log)
	}()
	theirs.Close() // or else its end would not be seen
	stderr.Close()
	report, err := order(ours, nil)
	if err != nil {
		ours.Close()
		process.Kill()
		return nil, fmt.Errorf("start the process that runs commands: it says nothing (%w): %w", err, process.Err())
	}
	p.info = confine.Info{
		Name: "commands", PID: process.PID, User: process.User,
		Confined: slices.Concat(process.Confined, report.Confined), Warnings: slices.Concat(process.Warnings, report.Warnings),
	}
	if state, err := confine.Examine(process.PID); err == nil && len(report.Warnings) == 0 && state.Capabilities&^uint64(confine.MayKeep(state.UID)) != 0 {
		p.info.Warnings = append(p.info.Warnings, "by what the kernel says it has not given up: "+confine.Others)
	}
	p.CommandsClient = wire.NewCommandsClient(ours)
	return p, nil
}

// Execute implements CommandsProcess. A command whose process has ended is killed with its
// group: nobody watches its time any more.
func (c *commandsChild) Execute(t command.Task, told command.Told) (command.End, error) {
	h := &handle{Told: told}
	defer h.close()
	end, err := c.CommandsClient.Execute(t, h)
	if err != nil {
		<-c.CommandsClient.Done()
		c.process.Kill() // it may only have said what it must not
		h.kill()
	}
	return end, err
}

// A handle is a command that runs. The descriptor is of its process: as long as that lives,
// the number of its group is nobody else's.
type handle struct {
	command.Told
	pid, fd int // 0: there is none
}

func (h *handle) Started(pid int) {
	if group, err := unix.Getpgid(pid); err == nil && pid > 1 && group == pid && group != unix.Getpgrp() {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			h.pid, h.fd = pid, fd
		}
	}
	h.Told.Started(pid)
}

func (h *handle) kill() {
	if h.fd == 0 {
		return
	}
	ended := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, 0); err != nil || n > 0 {
		return
	}
	if err := confine.KillGroup(h.pid); err != nil && !errors.Is(err, unix.ESRCH) {
		h.CannotKill(h.pid, err.Error())
	}
}

func (h *handle) close() {
	if h.fd != 0 {
		unix.Close(h.fd)
	}
}

// Ended implements CommandsProcess.
func (c *commandsChild) Ended() <-chan struct{} { return c.CommandsClient.Done() }

// Err implements CommandsProcess.
func (c *commandsChild) Err() error {
	c.Close()
	return c.why
}

// Info implements CommandsProcess.
func (c *commandsChild) Info() confine.Info { return c.info }

// Close implements CommandsProcess. The process ends what it runs before it ends.
func (c *commandsChild) Close() {
	c.closing.Do(func() {
		c.why = whyEnded(c.CommandsClient, c.process)
		c.CommandsClient.Close()
		select {
		case <-c.process.Ended():
		case <-time.After(endTimeout):
			c.process.Kill()
		}
		select {
		case <-c.relayed:
		case <-time.After(endTimeout / 10): // what it has run may hold its standard error
		}
	})
}
