package supervise

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"webknock/internal/command"
	"webknock/internal/confine"
	"webknock/internal/event"
	"webknock/internal/seam/wire"
)

// A CommandsProcess is a process that runs commands.
type CommandsProcess interface {
	Use(*command.Set) error
	Execute(command.Task, command.Told) (command.End, error)
	Stop()
	Ended() <-chan struct{}
	Err() error
	Close()
	Info() confine.Info
}

// CommandsOptions are what Commands is made of.
type CommandsOptions struct {
	Start func(*slog.Logger) (CommandsProcess, error)
	// Tell is told of a process that has ended by itself.
	Tell func(event.CommandsEnded)
	Log  *slog.Logger
}

// Commands is a command.Executor with a process of its own, while the configuration has
// commands or one of an earlier configuration runs. If the process ends by itself another
// one is started. Commands that ran end with it, and are not run again; others wait for
// the new one.
type Commands struct {
	options CommandsOptions
	log     *slog.Logger

	mu       sync.Mutex
	set      *command.Set // in force
	process  CommandsProcess
	since    time.Time     // process runs
	starting bool          // somebody starts one
	changed  chan struct{} // closed when process is another one, or stopped
	tasks    int           // that run, or wait for a process
	crashes  int           // processes that have ended soon after their start, one after the other
	failed   error         // why there is none
	warned   bool          // of what the latest process could not give up
	stopping bool
	stop     chan struct{} // closed: stopping
}

var _ command.Executor = (*Commands)(nil)

// NewCommands returns an executor without a process.
func NewCommands(o CommandsOptions) *Commands {
	return &Commands{options: o, log: o.Log, changed: make(chan struct{}), stop: make(chan struct{})}
}

// needed reports whether there is to be a process. The caller holds c.mu.
func (c *Commands) needed() bool {
	return !c.stopping && (c.tasks > 0 || c.configured())
}

func (c *Commands) configured() bool { return c.set != nil && len(c.set.Sequences) > 0 }

// Require starts a process unless one runs, and returns an error if it cannot be
// started. Use or Settle follows.
func (c *Commands) Require() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil || c.starting || c.stopping {
		return nil
	}
	return c.start()
}

// start starts a process. The caller holds c.mu.
func (c *Commands) start() error {
	p, err := c.options.Start(c.log)
	if err == nil && c.configured() {
		if err = p.Use(c.set); err != nil {
			p.Close()
		}
	}
	if err != nil {
		return err
	}
	if warnings := p.Info().Warnings; !c.warned {
		for _, w := range warnings {
			c.log.Warn("the process that runs commands is less confined than it could be", "why", w)
		}
		c.warned = true
	}
	c.process, c.since, c.failed = p, time.Now(), nil
	c.change()
	go c.watch(p)
	return nil
}

// change tells those who wait. The caller holds c.mu.
func (c *Commands) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Use puts the commands of a configuration in force. Without any the process ends, when
// what it runs has ended.
func (c *Commands) Use(s *command.Set) {
	c.mu.Lock()
	c.set = s
	p := c.process
	c.mu.Unlock()
	if p != nil && len(s.Sequences) > 0 {
		if err := p.Use(s); err != nil { // tried again before a command runs
			c.log.Error("the process that runs commands does not take the configuration", "error", err)
		}
	}
	c.Settle()
}

// Settle ends a process that is not needed, and has one started that is.
func (c *Commands) Settle() {
	c.mu.Lock()
	p := c.process
	if c.needed() || p == nil || c.stopping {
		c.bringUp()
		c.mu.Unlock()
		return
	}
	c.process = nil
	c.change()
	c.mu.Unlock()
	p.Close()
}

// bringUp has a process started if one is needed, and does not wait. The caller holds
// c.mu.
func (c *Commands) bringUp() {
	if c.process == nil && !c.starting && c.needed() {
		c.starting = true
		go c.startAgain()
	}
}

// watch waits for the end of a process, and has another one started if it has ended by
// itself.
func (c *Commands) watch(p CommandsProcess) {
	<-p.Ended()
	c.mu.Lock()
	if c.process != p || c.stopping {
		c.mu.Unlock()
		return // it was to end
	}
	c.process = nil
	if time.Since(c.since) >= aWhile {
		c.crashes = 0
	}
	c.change()
	c.mu.Unlock()
	p.Close()
	err := p.Err()
	c.mu.Lock()
	c.failed = err
	c.bringUp()
	c.mu.Unlock()
	c.options.Tell(event.CommandsEnded{Reason: err.Error()})
}

// startAgain starts a process, and goes on trying.
func (c *Commands) startAgain() {
	for {
		c.mu.Lock()
		wait := waitAfter(c.crashes)
		c.crashes++
		c.mu.Unlock()
		select {
		case <-c.stop:
			return
		case <-time.After(wait):
		}
		c.mu.Lock()
		if !c.needed() || c.process != nil {
			c.starting = false
			c.mu.Unlock()
			return
		}
		err := c.start()
		if err == nil {
			c.starting = false
			c.mu.Unlock()
			return
		}
		c.failed = err
		c.mu.Unlock()
		c.log.Error("the process that runs commands cannot be started; trying again", "error", err)
	}
}

// Execute implements command.Executor.
func (c *Commands) Execute(t command.Task, told command.Told) command.End {
	c.mu.Lock()
	c.tasks++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.tasks--
		c.mu.Unlock()
		c.Settle()
	}()
	for {
		p := c.await()
		if p == nil {
			return command.End{Result: command.NotStarted, Reason: "webknock stops"}
		}
		w := &listener{Told: told}
		began := time.Now()
		end, err := p.Execute(t, w)
		switch {
		case err == nil:
			return end
		case errors.Is(err, wire.ErrNotAsked):
			select { // it has ended, or does not take the commands
			case <-p.Ended():
			case <-time.After(firstWait):
			}
			continue
		case w.started:
			return command.End{Result: command.Killed, Reason: "the process that runs commands has ended", Duration: time.Since(began)}
		}
		return command.End{Result: command.NotStarted, Reason: "the process that runs commands has ended; the command may have been started, so it is not tried again"}
	}
}

// await returns the process when one runs; nil: webknock stops.
func (c *Commands) await() CommandsProcess {
	for {
		c.mu.Lock()
		p, changed, stopping := c.process, c.changed, c.stopping
		c.bringUp()
		c.mu.Unlock()
		if p != nil {
			return p
		}
		if stopping {
			return nil
		}
		<-changed
	}
}

// listener notes whether a command was started.
type listener struct {
	command.Told
	started bool
}

func (l *listener) Started(pid int) {
	l.started = true
	l.Told.Started(pid)
}

// Stop implements command.Executor.
func (c *Commands) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return
	}
	c.stopping = true
	close(c.stop)
	c.change()
	if c.process != nil {
		c.process.Stop()
	}
}

// Close ends the process, and what it runs.
func (c *Commands) Close() {
	c.Stop()
	c.mu.Lock()
	p := c.process
	c.process = nil
	c.mu.Unlock()
	if p != nil {
		p.Close()
	}
}

// Problem returns why commands wait, or nil.
func (c *Commands) Problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil || !c.needed() || c.failed == nil {
		return nil
	}
	return errors.New("no command runs: the process that runs them has ended and is being started again (" + c.failed.Error() + ")")
}

// Processes describes the process that runs, if one does.
func (c *Commands) Processes() []confine.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return nil
	}
	return []confine.Info{c.process.Info()}
}
