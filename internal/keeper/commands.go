package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/command"
	"webknock/internal/confine"
	"webknock/internal/event"
)

// commands runs the commands of sequences.
type commands struct {
	runner   *command.Runner
	journal  *command.Journal
	process  Executor // nil: this process runs them
	software string   // SERVER_SOFTWARE in the environment of commands
	// configured has the commands of each sequence by what they run on; never
	// written to.
	configured atomic.Pointer[map[string]map[command.Event][]command.Command]
}

// hasCommands reports whether a configuration runs any.
func hasCommands(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Sequences, func(s config.Sequence) bool { return len(s.Run) > 0 })
}

// require has what runs commands started if a configuration has some.
func (c *commands) require(cfg *config.Config) error {
	if c.process == nil || !hasCommands(cfg) {
		return nil
	}
	return c.process.Require()
}

// settle ends what runs commands if nothing needs it.
func (c *commands) settle() {
	if c.process != nil {
		c.process.Settle()
	}
}

func (c *commands) problem() error {
	if c.process == nil {
		return nil
	}
	return c.process.Problem()
}

func (c *commands) processes() []confine.Info {
	if c.process == nil {
		return nil
	}
	return c.process.Processes()
}

// newCommands returns commands that run nothing yet. A dry run keeps no journal:
// its firewall is empty, so all grants in the journal would seem to have ended.
func (k *Keeper) newCommands(cfg *config.Config) (*commands, error) {
	command.Isolate()
	c := &commands{runner: command.NewRunner(k.log), software: "webknock/" + k.options.Version}
	c.runner.Ended = func(what command.Command, o command.Occasion, result command.Result) {
		k.events.Publish(event.Command{
			Program: what.Argv[0], On: string(o.Event), Sequence: o.Sequence, Client: o.Client, User: o.User, Door: o.Door, Grant: o.Grant, Result: string(result),
		})
	}
	if k.options.Commands != nil {
		c.process = k.options.Commands(CommandsOptions{Tell: func(e event.CommandsEnded) { k.events.Publish(e) }, Log: k.log})
		c.runner.Executor = c.process
		k.lifecycle.onClose("the process that runs commands", func() error {
			c.process.Close()
			return nil
		})
		if err := c.require(cfg); err != nil {
			return nil, err
		}
	}
	file := k.store
	if k.options.DryRun {
		file = nil
	}
	closing := func(sequence string) []command.Command { return c.of(sequence, command.Close) }
	var err error
	required := slices.ContainsFunc(cfg.Sequences, func(s config.Sequence) bool {
		return slices.ContainsFunc(s.Run, func(r config.Command) bool { return r.On == string(command.Close) })
	})
	if c.journal, err = command.OpenJournal(file, c.runner, closing, required, k.log); err != nil {
		return nil, err
	}
	c.use(cfg)
	return c, nil
}

// of returns what a sequence runs on an event, in the order of the configuration.
func (c *commands) of(sequence string, on command.Event) []command.Command {
	return (*c.configured.Load())[sequence][on]
}

// use puts the commands of another configuration in force.
func (c *commands) use(cfg *config.Config) {
	configured := map[string]map[command.Event][]command.Command{}
	closing := false
	set := &command.Set{Sequences: map[string][]command.Command{}}
	for _, s := range cfg.Sequences {
		all := map[command.Event][]command.Command{}
		for i, r := range s.Run {
			to := command.Command{Argv: r.Argv, Timeout: r.Timeout, Environment: r.Environment, Of: set, Index: i}
			if becomes(r) {
				to.Credential = r.Credential
			}
			on := command.Event(r.On)
			all[on] = append(all[on], to)
			set.Sequences[s.Name] = append(set.Sequences[s.Name], to)
		}
		configured[s.Name] = all
		closing = closing || len(all[command.Close]) > 0
	}
	c.configured.Store(&configured)
	if c.process != nil {
		c.process.Use(set)
	}
	if closing {
		c.journal.Touch()
	}
}

// becomes reports whether a command runs as another user than the daemon.
func becomes(c config.Command) bool {
	return c.Credential != nil && int(c.Credential.Uid) != syscall.Geteuid()
}

// mayRun returns an error if a command runs as a user that the daemon may not
// become.
func (k *Keeper) mayRun(cfg *config.Config) error {
	var errs config.Errors
	for i, s := range cfg.Sequences {
		for j, c := range s.Run {
			if !becomes(c) {
				continue
			}
			if !command.MayBecome() {
				errs = append(errs, config.Error{File: cfg.File, Key: fmt.Sprintf("sequences[%d].run[%d].user", i, j),
					Msg: fmt.Sprintf("to run commands as %s, webknock needs CAP_SETUID and CAP_SETGID (or leave user out: as webknock itself)", c.User)})
			} else if !command.MayKill() {
				k.log.Warn("a command that hangs cannot be killed without CAP_KILL", "sequence", s.Name, "user", c.User)
			}
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

// run runs commands until ctx is done, and then ends those that run.
func (c *commands) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.runner.Run(ctx) })
	wg.Go(func() { c.journal.Run(ctx) })
	wg.Wait()
	c.runner.Stop()
}

// handle runs the commands for an event, and has the journal note it.
func (c *commands) handle(e event.Event) {
	switch e := e.(type) {
	case event.Completion:
		c.submit(e.Sequence, command.Complete, command.Occasion{
			Event: command.Complete, Sequence: e.Sequence, Client: netip.PrefixFrom(e.Client, e.Client.BitLen()), User: e.User, Request: c.request(e.Request),
		})
	case event.GrantOpened:
		c.journal.Began(e.Grant)
		if e.Completion != nil {
			g := e.Grant
			c.submit(g.Sequence, command.Open, command.Occasion{
				Event: command.Open, Sequence: g.Sequence, Client: g.Client, User: g.User, Door: g.Door, Grant: g.ID, Expires: g.Expires,
				Request: c.request(e.Completion.Request),
			})
		}
	case event.GrantAdopted:
		c.journal.Began(e.Grant)
	case event.GrantExtended:
		c.journal.Extended(e.Grant)
	case event.GrantClosed:
		c.journal.Ended(e.Grant, e.Reason)
	}
}

func (c *commands) submit(sequence string, on command.Event, o command.Occasion) {
	for _, what := range c.of(sequence, on) {
		c.runner.Submit(what, o)
	}
}

// request returns what a command is told of a knock; nil: it was malformed.
func (c *commands) request(r *event.Request) *command.Request {
	if r == nil {
		return nil
	}
	return &command.Request{
		Request: &http.Request{Method: r.Method, RequestURI: r.Target, Proto: r.Proto, Host: r.Host, URL: &url.URL{Path: r.Path, RawQuery: r.RawQuery}, Header: r.Header},
		Client:  r.Client, Remote: r.Remote, Local: r.Local, TLS: r.TLS, Software: c.software,
	}
}

// recoverRetry is how long after a failure the gate is asked again for its grants.
const recoverRetry = time.Second

// recoverCommands makes up for missed events: the gate knows which grants there
// are, and so which have ended meanwhile.
func (k *Keeper) recoverCommands() {
	for {
		grants, err := k.gate.Grants(context.Background())
		switch {
		case err == nil:
			k.commands.journal.Reconcile(grants)
			return
		case errors.Is(err, firewall.ErrStopped):
			return // the next start finds out
		}
		k.log.Error("commands for the end of grants wait: the gate does not say which grants there are", "error", err)
		time.Sleep(recoverRetry)
	}
}
