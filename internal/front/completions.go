package front

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"webknock/httpd"
	"webknock/internal/event"
	"webknock/internal/seam"
	"webknock/internal/ticket"
	"webknock/sequence"
)

// completions hands over to the keeper what clients have completed: once no crash
// can bring back the codes of the run, once the answer is out, and in the order in
// which each client has completed it.
type completions struct {
	keeper   seam.Keeper
	codes    awaiter
	log      *slog.Logger
	working  sync.WaitGroup // completions that wait for a record, an answer or an earlier one
	stopping chan struct{}  // closed: no answer is waited for any more

	mu   sync.Mutex
	last map[netip.Addr]chan struct{} // closed when the latest completion of a client that waits is handed over
}

// An awaiter calls done once the use of a credential's codes is recorded, or with
// an error if it cannot be. onetime.Verifier is one.
type awaiter interface {
	Await(used *sequence.Credential, done func(error))
}

func newCompletions(keeper seam.Keeper, codes awaiter, log *slog.Logger) *completions {
	return &completions{keeper: keeper, codes: codes, log: log, stopping: make(chan struct{}), last: map[netip.Addr]chan struct{}{}}
}

// add takes a completion. The shard of the client calls it, so it does not wait.
//
// The client's place in the order is taken now, before anything is waited for: a
// plain sequence that is completed while the codes of another are being recorded is
// handed over behind that one.
func (c *completions) add(done completion) {
	client := done.knock.Client
	handed := make(chan struct{})
	c.mu.Lock()
	before := c.last[client]
	now := done.credential == nil && done.knock.Answered == nil && before == nil
	if !now {
		c.last[client] = handed
	}
	c.mu.Unlock()
	if now {
		c.keeper.Complete(done.value())
		return
	}
	var recorded chan error
	if done.credential != nil {
		recorded = make(chan error, 1)
		c.codes.Await(done.credential, func(err error) { recorded <- err })
	}
	c.working.Go(func() {
		var err error
		if recorded != nil {
			err = <-recorded
		}
		if err != nil {
			c.log.Error("not let in", "sequence", done.sequence.Name, "client", client, "user", done.credential.User, "error", err)
		} else {
			c.awaitAnswer(done.knock.Answered)
		}
		if before != nil {
			<-before
		}
		if err == nil {
			c.keeper.Complete(done.value())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.last[client] == handed {
			delete(c.last, client)
		}
		close(handed)
	})
}

// stop has no answer waited for any more, and returns when all completions have
// been handed over, or ctx is done. Call it once, when no more are added.
func (c *completions) stop(ctx context.Context) error {
	close(c.stopping)
	done := make(chan struct{})
	go func() {
		c.working.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Applying a completion takes time of a processor and of the kernel. Under a
// cover that answers it waits until the answer is out, and a little longer, or
// else the answers to completions were late. Nothing waits for the end of a long
// answer, as one that streams.
const (
	answerPatience = time.Second
	answerMargin   = 5 * time.Millisecond
)

// awaitAnswer returns when an answer is out; nil: there is none.
func (c *completions) awaitAnswer(answered <-chan struct{}) {
	if answered == nil {
		return
	}
	select {
	case <-answered:
	case <-c.stopping:
		return
	case <-time.After(answerPatience):
	}
	time.Sleep(answerMargin)
}

// value returns a completion as the keeper is told of it.
func (c completion) value() seam.Completion {
	v := seam.Completion{Sequence: c.sequence.Name, Client: c.knock.Client, At: c.knock.At, Request: requestOf(c.request, c.knock)}
	if c.credential != nil {
		v.User = c.credential.User
		v.Code = &seam.Code{Secret: c.credential.KeyID, Counter: c.credential.Counter, Ticket: c.credential.Nonce}
		v.Ticket, _ = c.credential.Request.(*ticket.Request)
	}
	return v
}

// requestOf returns what commands may be told of a request; nil: it was malformed.
func requestOf(r *http.Request, k httpd.Knock) *event.Request {
	if r == nil {
		return nil
	}
	return &event.Request{
		Method: r.Method, Target: r.RequestURI, Proto: r.Proto, Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery, Header: r.Header,
		Client: k.Client, Remote: k.Remote, Local: k.Local, TLS: k.TLS,
	}
}
