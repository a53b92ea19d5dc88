package notice

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	queueSize      = 256              // notices that may wait for one target
	attemptTimeout = 10 * time.Second // for one attempt
	minRetry       = time.Second      // after a first failure, about
	maxRetry       = time.Minute      // after many
	giveUp         = 10 * time.Minute // after a first attempt
	maxHanging     = 4                // attempts of a target whose end nobody waits for any more
	renewal        = 256              // attempts until a service is reopened, because some use more memory with each
	lastChance     = time.Second      // for all that waits when the sender stops
	pause          = time.Minute      // between two notices of a noisy event
)

// noisy are the events that may come in large numbers, because strangers or repeated flushes of
// the ruleset cause them. A target gets one notice of such an event in each pause.
var noisy = map[Event]bool{Repair: true, Ban: true, Degraded: true}

// A Sender sends notices to targets. Each target has a queue and a goroutine of its own, so that
// a target that hangs delays no other and no caller.
type Sender struct {
	log  *slog.Logger
	host string
	open func(url, host string) (service, error)
	lost atomic.Uint64

	sent, failed atomic.Uint64

	stopping context.Context // done: what waits is tried once
	stop     context.CancelFunc
	ended    context.Context // done: nothing is tried
	end      context.CancelFunc

	mu      sync.RWMutex
	queues  []*queue
	working sync.WaitGroup
}

// NewSender returns a sender that has no targets yet. Its Run must be called. The
// first call gives http.DefaultClient a timeout.
func NewSender(log *slog.Logger) *Sender {
	boundDefaultClient()
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	s := &Sender{log: log, host: host, open: open}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.ended, s.end = context.WithCancel(context.Background())
	return s
}

// Run returns a while after ctx is done, when all that waits has been tried
// once more. Use must not be called any more then.
func (s *Sender) Run(ctx context.Context) {
	<-ctx.Done()
	s.stop()
	defer time.AfterFunc(lastChance, s.end).Stop()
	s.Use(nil)
	s.working.Wait()
}

// Use puts other targets in force. What waits for the old ones is still sent.
func (s *Sender) Use(targets []Target) {
	var queues []*queue
	for _, t := range targets {
		q := &queue{
			Sender: s, target: t,
			notices: make(chan Notice, queueSize),
			hanging: make(chan struct{}, maxHanging),
			paused:  map[Event]*held{},
		}
		queues = append(queues, q)
		s.working.Go(q.run)
	}
	s.mu.Lock()
	old := s.queues
	s.queues = queues
	s.mu.Unlock()
	for _, q := range old {
		q.close()
	}
}

// Send queues a notice for each target that wants its event. It does not wait.
func (s *Sender) Send(n Notice) {
	n.Host = s.host
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, q := range s.queues {
		if q.target.hears(n) {
			q.offer(n)
		}
	}
}

// Results returns how many notices were sent, and how many were given up.
func (s *Sender) Results() (sent, failed uint64) { return s.sent.Load(), s.failed.Load() }

// Lost returns how many notices have found a full queue.
func (s *Sender) Lost() uint64 { return s.lost.Load() }

// A queue is what waits for one target.
type queue struct {
	*Sender
	target  Target
	hanging chan struct{} // an item for each attempt that has not ended

	mu      sync.Mutex
	notices chan Notice
	closed  bool
	paused  map[Event]*held

	// What follows belongs to run.
	service  service // nil: to be opened
	attempts int     // by service
}

// held is what has happened in a pause.
type held struct {
	count  int
	latest Notice
	over   *time.Timer
}

// offer queues a notice, or holds it until the pause is over.
func (q *queue) offer(n Notice) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch h := q.paused[n.Event]; {
	case h != nil:
		h.count++
		h.latest = n
	case noisy[n.Event]:
		q.paused[n.Event] = &held{over: time.AfterFunc(pause, func() { q.resume(n.Event) })}
		q.push(n)
	default:
		q.push(n)
	}
}

// resume ends a pause, with one notice of all that has been held.
func (q *queue) resume(event Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	h := q.paused[event]
	if h.count == 0 {
		delete(q.paused, event)
		return
	}
	q.push(h.notice())
	h.count = 0
	h.over.Reset(pause)
}

// notice returns the latest of what is held, and how many it stands for.
func (h *held) notice() Notice {
	n := h.latest
	n.More = h.count - 1
	return n
}

func (q *queue) push(n Notice) {
	select {
	case q.notices <- n:
	default:
		q.lost.Add(1)
	}
}

// close lets run return when all that waits has been sent.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, h := range q.paused {
		h.over.Stop()
		if h.count > 0 {
			q.push(h.notice())
		}
	}
	close(q.notices)
}

func (q *queue) run() {
	about := q.log.With("notify", q.target.Place, "service", q.target.Service)
	late := 0
	for n := range q.notices {
		if q.ended.Err() != nil {
			late++
			continue
		}
		log := about.With("event", n.Event)
		switch text, err := render(q.target.Template, n); {
		case err != nil:
			log.Error("notice not sent: its template has failed", "error", err)
			q.failed.Add(1)
		case text == "": // the template wants none
		default:
			if err := q.deliver(text); err != nil {
				log.Error("notice not sent", "reason", reason(err))
				q.failed.Add(1)
			} else {
				q.sent.Add(1)
			}
		}
	}
	if late > 0 {
		q.failed.Add(uint64(late))
		about.Error("notices not sent", "count", late, "reason", reason(context.Canceled))
	}
}

// deliver sends a text, and tries again until it has arrived, too much time has
// passed, or the sender stops; then it tries once more.
func (q *queue) deliver(text string) error {
	err := context.Canceled
	if q.stopping.Err() == nil {
		wait := backoff.NewExponentialBackOff()
		wait.InitialInterval, wait.MaxInterval, wait.Multiplier = minRetry, maxRetry, 2
		_, err = backoff.Retry(q.stopping, func() (struct{}, error) { return struct{}{}, q.attempt(text) },
			backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(giveUp))
	}
	if errors.Is(err, context.Canceled) {
		err = q.attempt(text)
	}
	if err != nil {
		q.service = nil // perhaps a new one knows better, as after a new login
	}
	return err
}

// attempt sends a text once. An attempt that takes too long is left to itself,
// since not every service can be told to stop, and never meets another one: its
// service is not used again. There are at most maxHanging of these. They end
// when their server, or the connection to it, does.
func (q *queue) attempt(text string) error {
	if q.ended.Err() != nil {
		return context.Canceled
	}
	select {
	case q.hanging <- struct{}{}:
	default:
		return errHanging
	}
	if q.attempts++; q.attempts > renewal {
		q.service, q.attempts = nil, 1
	}
	type outcome struct {
		service service
		err     error
	}
	result := make(chan outcome, 1)
	go func(s service) {
		defer func() { <-q.hanging }()
		var err error
		if s == nil {
			s, err = q.open(q.target.URL, q.host)
		}
		if err == nil {
			err = s.send(text)
		}
		result <- outcome{s, err}
	}(q.service)
	ctx, cancel := context.WithTimeout(q.ended, attemptTimeout)
	defer cancel()
	select {
	case r := <-result:
		q.service = r.service
		return r.err
	case <-ctx.Done():
		q.service = nil
		return ctx.Err()
	}
}
