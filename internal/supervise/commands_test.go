package supervise

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"webknock/internal/command"
	"webknock/internal/confine"
	"webknock/internal/event"
	"webknock/internal/seam/wire"
)

// fakeCommands is a process whose commands run until it says so.
type fakeCommands struct {
	mu      sync.Mutex
	sets    int
	began   []string
	ended   chan struct{}
	once    sync.Once
	silent  bool // it says nothing of what it starts
	results chan command.End
}

func (p *fakeCommands) Use(*command.Set) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sets++
	return nil
}

func (p *fakeCommands) Execute(t command.Task, told command.Told) (command.End, error) {
	select {
	case <-p.ended:
		return command.End{}, fmt.Errorf("%w: gone", wire.ErrNotAsked)
	default:
	}
	p.mu.Lock()
	p.began = append(p.began, t.Command.Argv[0])
	p.mu.Unlock()
	if !p.silent {
		told.Started(1)
	}
	select {
	case end := <-p.results:
		return end, nil
	case <-p.ended:
		return command.End{}, errors.New("gone")
	}
}

func (p *fakeCommands) end()                   { p.once.Do(func() { close(p.ended) }) }
func (p *fakeCommands) Stop()                  {}
func (p *fakeCommands) Ended() <-chan struct{} { return p.ended }
func (p *fakeCommands) Err() error             { return errors.New("it has crashed") }
func (p *fakeCommands) Close()                 { p.end() }
func (p *fakeCommands) Info() confine.Info     { return confine.Info{Name: "commands", PID: 8} }

type silence struct{}

func (silence) Started(int)            {}
func (silence) Line(string)            {}
func (silence) CannotKill(int, string) {}

type commandsLab struct {
	*Commands
	mu      sync.Mutex
	started []*fakeCommands
	refuse  int // starts that fail
	silent  bool
	told    []string
	ends    []command.End
}

func newCommandsLab() *commandsLab {
	l := new(commandsLab)
	l.Commands = NewCommands(CommandsOptions{
		Start: func(*slog.Logger) (CommandsProcess, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.refuse > 0 {
				l.refuse--
				return nil, errors.New("no room")
			}
			p := &fakeCommands{ended: make(chan struct{}), results: make(chan command.End), silent: l.silent}
			l.started = append(l.started, p)
			return p, nil
		},
		Tell: func(e event.CommandsEnded) { l.told = append(l.told, e.Reason) }, Log: slog.New(slog.DiscardHandler),
	})
	return l
}

func (l *commandsLab) execute(program string) {
	go func() {
		end := l.Execute(command.Task{Command: command.Command{Argv: []string{program}}}, silence{})
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ends = append(l.ends, end)
	}()
	synctest.Wait()
}

var some = &command.Set{Sequences: map[string][]command.Command{"ssh": {{Argv: []string{"/bin/a"}}}}}

func TestAProcessForCommandsIsThereWhileItIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCommandsLab()
		l.Use(&command.Set{})
		synctest.Wait()
		if len(l.started) != 0 {
			t.Error("one runs although there are no commands")
		}
		l.refuse = 1
		if err := l.Require(); err == nil {
			t.Error("it seems to run")
		}
		if err := l.Require(); err != nil {
			t.Error(err)
		}
		l.Use(some)
		l.execute("/bin/a")
		if p := l.started[0]; p.sets != 1 || len(l.Processes()) != 1 {
			t.Errorf("%d sets, %d processes", p.sets, len(l.Processes()))
		}
		l.Use(&command.Set{}) // the command still runs
		if len(l.Processes()) != 1 {
			t.Error("it has not waited for its command")
		}
		l.started[0].results <- command.End{Result: command.Done}
		synctest.Wait()
		if len(l.Processes()) != 0 || l.ends[0].Result != command.Done || len(l.told) != 0 || l.Problem() != nil {
			t.Errorf("%d processes, ends %v, told %q, %v", len(l.Processes()), l.ends, l.told, l.Problem())
		}
		l.execute("/bin/b") // for the end of a grant of the configuration before
		l.started[1].results <- command.End{Result: command.Done}
		synctest.Wait()
		if len(l.Processes()) != 0 || l.ends[1].Result != command.Done {
			t.Errorf("%d processes, ends %v", len(l.Processes()), l.ends)
		}
		l.Close()
	})
}

func TestAProcessForCommandsThatEndsIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCommandsLab()
		l.Use(some)
		synctest.Wait()
		l.execute("/bin/a")
		l.mu.Lock()
		l.refuse = 2
		l.mu.Unlock()
		l.started[0].end()
		synctest.Wait()
		if len(l.ends) != 1 || l.ends[0].Result != command.Killed || len(l.told) != 1 {
			t.Fatalf("ends %v, told %q", l.ends, l.told)
		}
		if p := l.Problem(); p == nil || !strings.Contains(p.Error(), "no command runs") {
			t.Errorf("problem %v", p)
		}
		l.execute("/bin/b") // waits
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(l.started) != 2 || strings.Join(l.started[1].began, " ") != "/bin/b" || l.started[1].sets != 1 || l.Problem() != nil {
			t.Fatalf("%d started, %v", len(l.started), l.Problem())
		}
		l.started[1].results <- command.End{Result: command.Done}
		synctest.Wait()
		if len(l.told) != 1 || l.ends[1].Result != command.Done {
			t.Errorf("told %q, ends %v", l.told, l.ends)
		}
		l.Close()
	})
}

// What may have been started is not tried again.
func TestACommandIsNeverRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCommandsLab()
		l.silent = true
		l.Use(some)
		synctest.Wait()
		l.execute("/bin/a")
		l.started[0].end()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(l.ends) != 1 || l.ends[0].Result != command.NotStarted || len(l.started) != 2 || len(l.started[1].began) > 0 {
			t.Errorf("ends %v, %d started", l.ends, len(l.started))
		}
		l.Close()
	})
}

func TestCommandsThatWaitForAProcessEndWithTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCommandsLab()
		l.refuse = 1 << 20
		l.Use(some)
		l.execute("/bin/a")
		time.Sleep(time.Minute)
		l.Stop()
		synctest.Wait()
		if len(l.ends) != 1 || l.ends[0].Result != command.NotStarted || l.ends[0].Reason != "webknock stops" {
			t.Errorf("ends %v", l.ends)
		}
		l.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		if n := 1<<20 - l.refuse; n > 20 {
			t.Errorf("tried %d times in a minute", n)
		}
	})
}
