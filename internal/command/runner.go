package command

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	MaxRunning = 8   // commands that run at once
	maxWaiting = 256 // commands in the queue
)

// A Runner runs up to MaxRunning commands at once. Others wait in a queue.
type Runner struct {
	// Ended, if set before Run, is called with the result of each command, also of one
	// that could not be started.
	Ended func(Command, Occasion, Result)
	// Executor runs the commands. It may be replaced before Run.
	Executor Executor

	log     *slog.Logger
	waiting chan job
	slots   chan struct{} // holds a value for every command that runs
	running sync.WaitGroup
	lost    atomic.Uint64
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

// Results are all results.
var Results = []Result{Done, Failed, Killed, NotStarted}

type job struct {
	command  Command
	occasion Occasion
}

// NewRunner returns a runner that runs nothing until Run, and then in this process.
func NewRunner(log *slog.Logger) *Runner {
	return &Runner{Executor: NewDirect(), log: log, waiting: make(chan job, maxWaiting), slots: make(chan struct{}, MaxRunning)}
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
	r.Executor.Stop()
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

// run runs a command, and logs what comes of it.
func (r *Runner) run(c Command, o Occasion, log *slog.Logger) Result {
	end := r.Executor.Execute(Task{Command: c, Sequence: o.Sequence, Variables: o.variables()}, logged{log})
	if end.Result == NotStarted {
		log.Error("command cannot be started", "error", end.Reason)
		return NotStarted
	}
	if end.Lasts { // it could not be killed
		return Killed
	}
	log = log.With("duration", end.Duration.Round(time.Millisecond).Seconds())
	if end.LinesLost > 0 {
		log = log.With("lines_lost", end.LinesLost)
	}
	switch end.Result {
	case Killed:
		log.Warn("command killed", "reason", end.Reason)
	case Failed:
		log.Warn("command failed", "error", end.Reason)
	default:
		log.Info("command ended")
	}
	return end.Result
}

// logged logs what is told of a command that runs.
type logged struct{ log *slog.Logger }

func (l logged) Started(pid int)  { l.log.Info("command started", "pid", pid) }
func (l logged) Line(line string) { l.log.Info("output", "line", line) } // slog makes anything harmless
func (l logged) CannotKill(pid int, why string) {
	l.log.Error("command cannot be killed", "pid", pid, "error", why+" (what runs as another user takes CAP_KILL)")
}
