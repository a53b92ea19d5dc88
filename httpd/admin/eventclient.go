package admin

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxEventLine is the longest line of a stream of events that the client reads, in bytes.
const maxEventLine = 1 << 20

// errStreamEnded means that the daemon has ended a stream of events, as it does when it
// stops.
var errStreamEnded = errors.New("the daemon has ended the stream of events")

// Events calls f for each event that a query asks for (GET /v1/events), and returns nil at
// the end of a query that is Once. Otherwise it returns the error of ctx when that is done,
// the error of f if that returns one, or why there is nothing more to read. Last is the ID
// to go on after.
func (a API) Events(ctx context.Context, q EventQuery, f func(Event) error) (last EventID, err error) {
	stream, err := a.openEvents(ctx, q)
	if err != nil {
		return q.After, err
	}
	return readEvents(ctx, stream, q, f)
}

func (a API) openEvents(ctx context.Context, q EventQuery) (io.ReadCloser, error) {
	req, err := newRequest(ctx, "GET", "/v1/events?"+q.encode(), nil)
	if err != nil {
		return nil, err
	}
	if q.After != (EventID{}) {
		req.Header.Set("Last-Event-ID", q.After.String())
	}
	res, err := a.do(req, 0)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// readEvents reads a stream until its end, and closes it.
func readEvents(ctx context.Context, stream io.ReadCloser, q EventQuery, f func(Event) error) (last EventID, err error) {
	defer stream.Close()
	last = q.After
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxEventLine)
	for lines.Scan() {
		switch name, value, _ := strings.Cut(lines.Text(), ":"); name {
		case "id":
			if last, err = ParseEventID(strings.TrimPrefix(value, " ")); err != nil {
				return last, err
			}
		case "data":
			var e Event
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				return last, fmt.Errorf("the daemon sends an event that is not JSON: %w", err)
			}
			if err := f(e); err != nil {
				return last, err
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		return last, ctx.Err()
	case lines.Err() != nil:
		return last, fmt.Errorf("%w: %w", errStreamEnded, lines.Err())
	case q.Once:
		return last, nil
	}
	return last, errStreamEnded
}

// Follow calls f for each event that a query asks for, until ctx is done. When the daemon
// ends, as it does for a restart, Follow calls lost with the reason, and goes on with the
// next daemon. It returns the error of ctx, of f, or of the first connection.
func (a API) Follow(ctx context.Context, q EventQuery, f func(Event) error, lost func(error)) error {
	q.Once = false
	stream, err := a.openEvents(ctx, q)
	for err == nil {
		var stopped error // by f
		q.After, err = readEvents(ctx, stream, q, func(e Event) error {
			stopped = f(e)
			return stopped
		})
		if ctx.Err() != nil || stopped != nil {
			return cmp.Or(stopped, ctx.Err())
		}
		lost(err)
		stream, err = a.reopenEvents(ctx, q)
	}
	return err
}

// reopenEvents tries until there is a daemon that answers, or ctx is done.
func (a API) reopenEvents(ctx context.Context, q EventQuery) (io.ReadCloser, error) {
	const firstPause, maxPause = 100 * time.Millisecond, 2 * time.Second
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		stream, err := a.openEvents(ctx, q)
		var refused *Problem
		if err == nil || errors.As(err, &refused) && refused.Status != http.StatusServiceUnavailable {
			return stream, err
		}
	}
}

// encode returns a query as part of a URL, without After.
func (q EventQuery) encode() string {
	values := url.Values{}
	for key, list := range map[string][]string{"kind": q.Kinds, "sequence": q.Sequences, "door": q.Doors} {
		if len(list) > 0 {
			values[key] = list
		}
	}
	for _, p := range q.Clients {
		values.Add("client", p.String())
	}
	if q.Recent > 0 {
		values.Set("recent", strconv.Itoa(q.Recent))
	}
	if q.Once {
		values.Set("once", "true")
	}
	return values.Encode()
}
