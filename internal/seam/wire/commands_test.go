package wire

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"webknock/internal/command"
	"webknock/internal/seam/seamtest"
)

// An actor runs no command: it notes what it is to run.
type actor struct {
	mu      sync.Mutex
	tasks   []command.Task
	stopped chan struct{}
	do      func(command.Told) command.End
}

func (a *actor) Execute(t command.Task, told command.Told) command.End {
	a.mu.Lock()
	a.tasks = append(a.tasks, t)
	a.mu.Unlock()
	return a.do(told)
}

func (a *actor) all() []command.Task {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.tasks)
}

func (a *actor) Stop() {
	select {
	case <-a.stopped:
	default:
		close(a.stopped)
	}
}

// A hearer notes what is told of a command.
type hearer struct{ told []string }

func (h *hearer) Started(pid int)  { h.told = append(h.told, fmt.Sprint("started ", pid)) }
func (h *hearer) Line(text string) { h.told = append(h.told, text) }
func (h *hearer) CannotKill(pid int, why string) {
	h.told = append(h.told, fmt.Sprint("cannot kill ", pid, ": ", why))
}

func commandsPair(t *testing.T, do func(command.Told) command.End) (*CommandsClient, *actor, chan error) {
	t.Helper()
	a, b := seamtest.Pair(t)
	act := &actor{stopped: make(chan struct{}), do: do}
	ended := make(chan error, 1)
	go func() { ended <- ServeCommands(b, act) }()
	c := NewCommandsClient(a)
	t.Cleanup(c.Close)
	return c, act, ended
}

func setOf(programs ...string) *command.Set {
	s := &command.Set{Sequences: map[string][]command.Command{}}
	for i, p := range programs {
		s.Sequences["ssh"] = append(s.Sequences["ssh"], command.Command{
			Argv: []string{p, "a"}, Timeout: time.Minute, Environment: []string{"K=v"}, Of: s, Index: i,
			Credential: &syscall.Credential{Uid: 7, Gid: 8, Groups: []uint32{9}},
		})
	}
	return s
}

func done(command.Told) command.End { return command.End{Result: command.Done} }

func TestACommandIsRunByItsPlace(t *testing.T) {
	c, act, _ := commandsPair(t, func(told command.Told) command.End {
		told.Started(12)
		told.Line("one\x00\xff")
		told.CannotKill(12, "why")
		return command.End{Result: command.Failed, Reason: "exit status 3", Duration: time.Second, LinesLost: 4}
	})
	s := setOf("/bin/first", "/bin/second")
	var h hearer
	end, err := c.Execute(command.Task{Command: s.Sequences["ssh"][1], Sequence: "ssh", Variables: []string{"REMOTE_ADDR=x", "WEBKNOCK_EVENT=open", "HTTP_X=y"}}, &h)
	if want := (command.End{Result: command.Failed, Reason: "exit status 3", Duration: time.Second, LinesLost: 4}); err != nil || end != want {
		t.Errorf("%+v, %v", end, err)
	}
	if want := []string{"started 12", "one\x00\xff", "cannot kill 12: why"}; !slices.Equal(h.told, want) {
		t.Errorf("told %q", h.told)
	}
	got := act.all()[0]
	if got.Command.Argv[0] != "/bin/second" || got.Command.Credential.Groups[0] != 9 || got.Command.Environment[0] != "K=v" || got.Variables[0] != "REMOTE_ADDR=x" {
		t.Errorf("%+v", got)
	}
}

// What the keeper names must be there, and nothing changes the program that is run.
func TestACommandThatIsNotConfiguredIsNotRun(t *testing.T) {
	c, act, _ := commandsPair(t, done)
	s := setOf("/bin/first")
	task := func(index int, sequence string, variables ...string) command.Task {
		what := s.Sequences["ssh"][0]
		what.Index = index
		return command.Task{Command: what, Sequence: sequence, Variables: variables}
	}
	for _, task := range []command.Task{
		task(1, "ssh"), task(-1, "ssh"), task(0, "web"), task(0, ""), task(0, "ssh", "LD_PRELOAD=/tmp/x"), task(0, "ssh", "PATH=/tmp"), task(0, "ssh", "HTTP_PROXY=x"),
		task(0, "ssh", "none"), task(0, "ssh", "HTTP_X=a\x00LD_PRELOAD=/tmp/x"), task(0, "ssh", "HTTP_X="+strings.Repeat("x", 70_000)),
	} {
		if end, err := c.Execute(task, new(hearer)); err != nil || end.Result != command.NotStarted || end.Reason == "" {
			t.Errorf("%.200q: %+v, %v", task.Variables, end, err)
		}
	}
	if len(act.all()) > 0 {
		t.Errorf("%d were run", len(act.all()))
	}
	for name, program := range map[string]command.Command{
		"no path": {Argv: []string{"sh"}, Timeout: time.Second}, "nothing": {Timeout: time.Second}, "no time": {Argv: []string{"/bin/sh"}},
		"a NUL": {Argv: []string{"/bin/sh", "a\x00"}, Timeout: time.Second},
	} {
		if err := c.Use(&command.Set{Sequences: map[string][]command.Command{"s": {program}}}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// Commands of earlier configurations are run as they were.
func TestACommandOfAnEarlierConfigurationIsRun(t *testing.T) {
	c, act, _ := commandsPair(t, done)
	var sets []*command.Set
	for i := range 3 * maxSets {
		s := setOf(fmt.Sprint("/bin/", i))
		if err := c.Use(s); err != nil {
			t.Fatal(err)
		}
		sets = append(sets, s)
	}
	for i, s := range sets {
		if _, err := c.Execute(command.Task{Command: s.Sequences["ssh"][0], Sequence: "ssh"}, new(hearer)); err != nil {
			t.Fatal(err)
		}
		if got := act.all()[i].Command.Argv[0]; got != fmt.Sprint("/bin/", i) {
			t.Errorf("%s was run in place of %d", got, i)
		}
	}
}

func TestMoreCommandsThanMayRunAtOnceAreNotRun(t *testing.T) {
	release := make(chan struct{})
	c, _, _ := commandsPair(t, func(told command.Told) command.End {
		told.Started(2)
		<-release
		return command.End{Result: command.Done}
	})
	s := setOf("/bin/first")
	results := make(chan command.Result, 2*command.MaxRunning)
	for range command.MaxRunning + 1 {
		go func() {
			end, _ := c.Execute(command.Task{Command: s.Sequences["ssh"][0], Sequence: "ssh"}, new(hearer))
			results <- end.Result
		}()
	}
	if got := <-results; got != command.NotStarted {
		t.Errorf("the first answer is %s", got)
	}
	close(release)
	for range command.MaxRunning {
		if got := <-results; got != command.Done {
			t.Errorf("%s", got)
		}
	}
}

// When the keeper has gone what runs is ended, and only then the process.
func TestCommandsEndWithTheKeeper(t *testing.T) {
	began, stopped := make(chan struct{}), make(chan struct{})
	c, act, ended := commandsPair(t, func(command.Told) command.End {
		close(began)
		<-stopped
		return command.End{Result: command.Killed, Reason: "webknock stops"}
	})
	s := setOf("/bin/first")
	executed := make(chan error, 1)
	go func() {
		_, err := c.Execute(command.Task{Command: s.Sequences["ssh"][0], Sequence: "ssh"}, new(hearer))
		executed <- err
	}()
	<-began
	c.Close()
	<-act.stopped
	select {
	case err := <-ended:
		t.Errorf("it ends although a command runs: %v", err)
	default:
	}
	close(stopped)
	if err := <-ended; !errors.Is(err, ErrGone) {
		t.Errorf("it ended with %v", err)
	}
	if err := <-executed; err == nil || errors.Is(err, ErrNotAsked) {
		t.Errorf("executed: %v", err)
	}
	if _, err := c.Execute(command.Task{Command: s.Sequences["ssh"][0], Sequence: "ssh"}, new(hearer)); !errors.Is(err, ErrNotAsked) {
		t.Errorf("after the end: %v", err)
	}
}

// What such a process never says ends the connection.
func TestAProcessOfCommandsThatBreaksARuleIsEnded(t *testing.T) {
	for name, says := range map[string][]commandToldArgs{
		"of a command that does not run": {{Run: 7, What: started, PID: 3}},
		"output before the start":        {{Run: 1, What: line, Text: "x"}},
		"twice started":                  {{Run: 1, What: started, PID: 3}, {Run: 1, What: started, PID: 4}},
		"no process":                     {{Run: 1, What: started}},
		"every process":                  {{Run: 1, What: started, PID: -1}},
		"something else":                 {{Run: 1, What: started, PID: 3}, {Run: 1, What: 9, PID: 3}},
		"without an end":                 append([]commandToldArgs{{Run: 1, What: started, PID: 3}}, slices.Repeat([]commandToldArgs{{Run: 1, What: line}}, 500)...),
		"an end that there is not":       nil,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := seamtest.Pair(t)
			c := NewCommandsClient(a)
			defer c.Close()
			go func() {
				var buf []byte
				for {
					h, _, err := readFrame(b, &buf)
					if err != nil {
						return
					}
					if h.kind == useCommands {
						b.Write(frame(header{form: answer, kind: h.kind, id: h.id}, nil))
						continue
					}
					for _, s := range says {
						payload, _ := encode(s)
						b.Write(frame(header{form: notice, kind: commandTold}, payload))
					}
					payload, _ := encode(command.End{Result: "splendid"})
					b.Write(frame(header{form: answer, kind: h.kind, id: h.id}, payload))
				}
			}()
			s := setOf("/bin/first")
			_, err := c.Execute(command.Task{Command: s.Sequences["ssh"][0], Sequence: "ssh"}, new(hearer))
			if !errors.Is(err, ErrProtocol) || errors.Is(err, ErrNotAsked) {
				t.Errorf("%v", err)
			}
			<-c.Done()
		})
	}
}

// A front can neither run a command nor tell of one.
func TestAFrontHasNoCommands(t *testing.T) {
	for _, k := range []kind{useCommands, runCommand, commandTold} {
		l := lying(t, true)
		payload, _ := encode(commandToldArgs{Run: 1, What: started, PID: 3})
		h := header{form: request, kind: k, id: 1}
		if methods[k].notice {
			h = header{form: notice, kind: k}
		}
		l.Write(frame(h, payload))
		<-l.client.Done()
		if err := l.client.Err(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", k, err)
		}
	}
}
