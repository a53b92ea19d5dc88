package keeper

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/command"
)

// commands runs the commands of sequences.
type commands struct {
	*command.Runner
	journal  *command.Journal
	software string // that a command is told has received the knock
	// closing is the commands for the end of a grant, by sequence.
	closing atomic.Pointer[map[string][]command.Command]
}

// newCommands returns commands that run nothing yet. A dry run keeps no
// journal: to it all grants of the firewall would seem to have ended.
func (d *Daemon) newCommands(cfg *config.Config) (*commands, error) {
	command.Isolate()
	c := &commands{Runner: command.NewRunner(d.Log), software: "webknock/" + d.Version}
	dir := d.state
	if d.DryRun {
		dir = nil
	}
	closing := func(sequence string) []command.Command { return (*c.closing.Load())[sequence] }
	var err error
	if c.journal, err = command.OpenJournal(dir, c.Runner, closing, d.Log); err != nil {
		return nil, err
	}
	c.use(cfg)
	return c, nil
}

// use puts the commands of another configuration in force.
func (c *commands) use(cfg *config.Config) {
	closing := map[string][]command.Command{}
	for _, s := range cfg.Sequences {
		if all := commandsOf(&s, command.Close); len(all) > 0 {
			closing[s.Name] = all
		}
	}
	c.closing.Store(&closing)
	if len(closing) > 0 {
		c.journal.Touch()
	}
}

// commandsOf returns what a sequence runs on an event.
func commandsOf(s *config.Sequence, on command.Event) (all []command.Command) {
	for _, c := range s.Run {
		if c.On != string(on) {
			continue
		}
		to := command.Command{Argv: c.Argv, Timeout: c.Timeout, Environment: c.Environment}
		if becomes(c) {
			to.Credential = c.Credential
		}
		all = append(all, to)
	}
	return all
}

// becomes reports whether a command runs as another user than the daemon.
func becomes(c config.Command) bool {
	return c.Credential != nil && int(c.Credential.Uid) != syscall.Geteuid()
}

// mayRun returns an error if commands are to run as users that the daemon may
// not become.
func (d *Daemon) mayRun(cfg *config.Config) error {
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
				d.Log.Warn("a command that hangs cannot be killed without CAP_KILL", "sequence", s.Name, "user", c.User)
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
	wg.Go(func() { c.Run(ctx) })
	wg.Go(func() { c.journal.Run(ctx) })
	wg.Wait()
	c.Stop()
}

// completed runs the commands for a completion.
func (c *commands) completed(done completion) {
	o := command.Occasion{
		Event: command.Complete, Sequence: done.sequence.Name, Client: netip.PrefixFrom(done.letter.Client, done.letter.Client.BitLen()), User: done.user(),
		Request: c.request(done),
	}
	for _, what := range commandsOf(done.sequence, command.Complete) {
		c.Submit(what, o)
	}
}

// request returns what a command is told of a knock; nil: it was malformed.
func (c *commands) request(done completion) *command.Request {
	if done.request == nil {
		return nil
	}
	l := done.letter
	return &command.Request{Request: done.request, Client: l.Client, Remote: l.Remote, Local: l.Local, TLS: l.TLS, Software: c.software}
}

// event runs the commands for what happens to a grant. It is called by the gate
// and does not wait.
func (c *commands) event(e firewall.Event) {
	g := e.Grant
	switch e.Kind {
	case firewall.Closed:
		c.journal.Ended(g, e.Reason)
	case firewall.Extended:
		c.journal.Extended(g)
	case firewall.Adopted, firewall.Opened:
		c.journal.Began(g)
	}
	done, ok := e.Cause.(completion)
	if e.Kind != firewall.Opened || !ok {
		return
	}
	o := command.Occasion{
		Event: command.Open, Sequence: g.Sequence, Client: g.Client, User: g.User, Door: g.Door, Grant: g.ID, Expires: g.Expires,
		Request: c.request(done),
	}
	for _, what := range commandsOf(done.sequence, command.Open) {
		c.Submit(what, o)
	}
}
