package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"webknock/internal/command"
)

// The keeper hands the commands of a configuration to the process that runs them, which
// keeps those of a few configurations: what waits is of the configuration that it began
// with. Then it names one by its configuration, its sequence and its place there.
const maxSets = 8

type (
	useCommandsArgs struct {
		Set       uint64
		Sequences map[string][]program
	}
	// program is a command as it is configured.
	program struct {
		Argv        []string
		Becomes     bool // another user
		UID, GID    uint32
		Groups      []uint32
		Timeout     time.Duration
		Environment []string
	}
	runCommandArgs struct {
		Run       uint64 // names it in what is told
		Set       uint64
		Sequence  string
		Index     int
		Variables []string
	}
	commandToldArgs struct {
		Run  uint64
		What news
		PID  int    // started, cannotKill
		Text string // a line of output, or why it cannot be killed
	}
)

// news is what is told of a command that runs.
type news uint8

const (
	started news = 1 + iota
	line
	cannotKill
)

// maxNews bounds what is told of one command: its start, its output, signals in vain.
const maxNews = 1 + command.MaxLines + 2

func programsOf(s *command.Set) map[string][]program {
	all := map[string][]program{}
	for name, commands := range s.Sequences {
		for _, c := range commands {
			p := program{Argv: c.Argv, Timeout: c.Timeout, Environment: c.Environment}
			if c.Credential != nil {
				p.Becomes, p.UID, p.GID, p.Groups = true, c.Credential.Uid, c.Credential.Gid, c.Credential.Groups
			}
			all[name] = append(all[name], p)
		}
	}
	return all
}

// command returns a command that can be run.
func (p program) command() (c command.Command, err error) {
	c = command.Command{Argv: p.Argv, Timeout: p.Timeout, Environment: p.Environment}
	if len(p.Argv) == 0 || !filepath.IsAbs(p.Argv[0]) || p.Timeout <= 0 {
		return c, errors.New("a command without a program or a time")
	}
	for _, text := range slices.Concat(p.Argv, p.Environment) {
		if strings.ContainsRune(text, 0) {
			return c, errors.New("a command with a NUL")
		}
	}
	if p.Becomes {
		c.Credential = &syscall.Credential{Uid: p.UID, Gid: p.GID, Groups: p.Groups}
	}
	return c, nil
}

// A CommandsClient is the process that runs commands, for the keeper.
type CommandsClient struct {
	conn *conn

	using sync.Mutex // held while a set is on its way

	mu   sync.Mutex
	sets []*command.Set // that the process has, the oldest first
	last uint64         // number of the newest
	run  uint64
	runs map[uint64]*watched
}

// watched is a command that runs.
type watched struct {
	told    command.Told
	started bool
	news    int
}

// NewCommandsClient returns the process at the other end of a socket, which it takes over.
func NewCommandsClient(socket *net.UnixConn) *CommandsClient {
	c := &CommandsClient{runs: map[uint64]*watched{}}
	c.conn = newConn(socket, "the process that runs commands", map[kind]function{commandTold: toldFunction(c.check)})
	c.conn.start()
	return c
}

// check returns what to do with news; an error if it is none that may come.
func (c *CommandsClient) check(a commandToldArgs) (func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.runs[a.Run]
	if w == nil {
		return nil, errors.New("about a command that does not run")
	}
	if w.news++; w.news > maxNews {
		return nil, errors.New("too much about one command")
	}
	if w.started == (a.What == started) || a.What != line && a.PID <= 0 {
		return nil, errors.New("out of its order")
	}
	switch a.What {
	case started:
		w.started = true
		return func() { w.told.Started(a.PID) }, nil
	case line:
		return func() { w.told.Line(a.Text) }, nil
	case cannotKill:
		return func() { w.told.CannotKill(a.PID, a.Text) }, nil
	}
	return nil, fmt.Errorf("unknown news %d", a.What)
}

// Done is closed when the connection has ended.
func (c *CommandsClient) Done() <-chan struct{} { return c.conn.done }

// Err returns why the connection has ended; nil: it has not.
func (c *CommandsClient) Err() error { return c.conn.err() }

// Close ends the connection, which ends the process and what it runs.
func (c *CommandsClient) Close() { c.conn.close() }

// Stop has the commands that run end.
func (c *CommandsClient) Stop() { c.conn.tell(stopCommands, nil) }

// Use hands over the commands of a configuration.
func (c *CommandsClient) Use(s *command.Set) error {
	_, err := c.number(s)
	return err
}

// number returns the number of a set that the process has. It hands the set over if need
// be.
func (c *CommandsClient) number(s *command.Set) (uint64, error) {
	c.using.Lock()
	defer c.using.Unlock()
	c.mu.Lock()
	i := slices.Index(c.sets, s)
	n := c.last - uint64(len(c.sets)-1-i)
	c.mu.Unlock()
	if i >= 0 {
		return n, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.conn.ask(ctx, useCommands, useCommandsArgs{c.last + 1, programsOf(s)}, nil); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	if c.sets = append(c.sets, s); len(c.sets) > maxSets {
		c.sets = slices.Delete(c.sets, 0, 1)
	}
	return c.last, nil
}

// ErrNotAsked means that the process has not been asked to run a command, and so has not
// run it.
var ErrNotAsked = errors.New("it was not asked")

// Execute has a command run, and returns when it has ended. Whether it was started is in
// what was told; after an error nobody knows, save for ErrNotAsked.
func (c *CommandsClient) Execute(t command.Task, to command.Told) (end command.End, err error) {
	set, err := c.number(t.Command.Of)
	if err == nil {
		err = c.conn.err()
	}
	if err != nil {
		return end, fmt.Errorf("%w: %w", ErrNotAsked, err)
	}
	c.mu.Lock()
	c.run++
	run := c.run
	c.runs[run] = &watched{told: to}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.runs, run)
	}()
	argument := runCommandArgs{run, set, t.Sequence, t.Command.Index, t.Variables}
	err = c.conn.ask(context.Background(), runCommand, argument, &end)
	if err == nil && (!slices.Contains(command.Results, end.Result) || len(end.Reason) > maxText || end.Duration < 0 || end.LinesLost < 0) {
		err = c.conn.wrong(errors.New("an end that no command has"))
		c.conn.fail(err)
	}
	return end, err
}

// toldFunction returns the function of a notice that is checked before it is taken.
func toldFunction[A any](check func(A) (func(), error)) function {
	return func(payload []byte, _ []*os.File) (func(context.Context) (any, error), error) {
		a, err := decodeTo[A](payload, true)
		var do func()
		if err == nil {
			do, err = check(a)
		}
		return func(context.Context) (any, error) {
			do()
			return nil, nil
		}, err
	}
}

// ServeCommands runs commands for the keeper at the other end of a socket, which it takes
// over. When the keeper has gone it ends those that run, and returns.
func ServeCommands(socket *net.UnixConn, executor command.Executor) error {
	s := &commandsServer{executor: executor, sets: map[uint64]map[string][]command.Command{}}
	s.conn = newConn(socket, "the keeper", map[kind]function{
		useCommands:  asked(func(_ context.Context, a useCommandsArgs) (none, error) { return none{}, s.use(a) }),
		runCommand:   asked(func(_ context.Context, a runCommandArgs) (command.End, error) { return s.run(a) }),
		stopCommands: told(func(none) { executor.Stop() }),
	})
	s.conn.start()
	<-s.conn.done
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	executor.Stop()
	s.running.Wait()
	return s.conn.err()
}

type commandsServer struct {
	conn     *conn
	executor command.Executor
	running  sync.WaitGroup

	mu    sync.Mutex
	sets  map[uint64]map[string][]command.Command
	count int // commands that run
	ended bool
}

func (s *commandsServer) use(a useCommandsArgs) error {
	set := map[string][]command.Command{}
	for name, programs := range a.Sequences {
		for _, p := range programs {
			c, err := p.command()
			if err != nil {
				return fmt.Errorf("sequence %s: %w", name, err)
			}
			set[name] = append(set[name], c)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sets[a.Set] = set
	delete(s.sets, a.Set-maxSets)
	return nil
}

// run runs a command, one of those that were handed over.
func (s *commandsServer) run(a runCommandArgs) (command.End, error) {
	c, err := s.begin(a)
	if err != nil {
		return command.End{Result: command.NotStarted, Reason: err.Error()}, nil
	}
	defer s.running.Done()
	end := s.executor.Execute(command.Task{Command: c, Sequence: a.Sequence, Variables: a.Variables}, teller{s.conn, a.Run})
	s.mu.Lock()
	s.count--
	s.mu.Unlock()
	if len(end.Reason) > maxText {
		end.Reason = end.Reason[:maxText]
	}
	return end, nil
}

func (s *commandsServer) begin(a runCommandArgs) (c command.Command, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	commands := s.sets[a.Set][a.Sequence]
	switch {
	case s.ended:
		return c, errors.New("webknock stops")
	case a.Index < 0 || a.Index >= len(commands):
		return c, fmt.Errorf("sequence %q has no command %d", a.Sequence, a.Index)
	case s.count >= command.MaxRunning:
		return c, fmt.Errorf("more than %d commands at once", command.MaxRunning)
	}
	if err := command.CheckVariables(a.Variables); err != nil {
		return c, err
	}
	s.count++
	s.running.Add(1)
	return commands[a.Index], nil
}

// A teller tells the keeper of a command that runs.
type teller struct {
	conn *conn
	run  uint64
}

func (t teller) Started(pid int) {
	t.conn.tell(commandTold, commandToldArgs{Run: t.run, What: started, PID: pid})
}
func (t teller) Line(text string) {
	t.conn.tell(commandTold, commandToldArgs{Run: t.run, What: line, Text: text})
}
func (t teller) CannotKill(pid int, why string) {
	t.conn.tell(commandTold, commandToldArgs{Run: t.run, What: cannotKill, PID: pid, Text: why})
}
