package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An Event is what happened, as GET /v1/events tells it. Fields that say nothing of an
// event are left out.
type Event struct {
	ID        string       `json:"id"` // see EventID
	Kind      string       `json:"kind"`
	Time      time.Time    `json:"time"`
	Client    string       `json:"client,omitempty"`  // an address, or a prefix
	Address   string       `json:"address,omitempty"` // whom a completion opens for, if that is not the client
	Sequence  string       `json:"sequence,omitempty"`
	Door      string       `json:"door,omitempty"`
	Doors     List[string] `json:"doors,omitzero"` // that a refused completion has asked for
	User      string       `json:"user,omitempty"`
	Grant     string       `json:"grant,omitempty"`
	Reason    string       `json:"reason,omitempty"`
	Message   string       `json:"message,omitempty"`   // of a completed sequence
	ExpiresAt time.Time    `json:"expires_at,omitzero"` // of a grant or a ban
	Outcome   string       `json:"outcome,omitempty"`   // of a knock
	Listener  string       `json:"listener,omitempty"`  // that received it
	Step      int          `json:"step,omitempty"`      // that it matches, from 1
	Steps     int          `json:"steps,omitempty"`
	Problems  List[string] `json:"problems,omitzero"` // of a degraded; empty: all is well again
	Result    string       `json:"result,omitempty"`  // of a command or a reload
	On        string       `json:"on,omitempty"`      // what a command was run for: open, close or complete
	Program   string       `json:"program,omitempty"` // of a command
	UID       *uint32      `json:"uid,omitempty"`     // of an administrator
	// Missed is how many events the reader does not get because they are not kept any more;
	// nil: it cannot be known. Only an event of kind missed has it.
	Missed *uint64 `json:"missed,omitempty"`
}

// EventKinds are all kinds of events, but KindMissed.
var EventKinds = []string{
	"knock", "completion", "grant.opened", "grant.extended", "grant.closed", "grant.adopted", "grant.refused",
	"repair", "ban", "unban", "reload", "command", "degraded", "admin", "front.ended", "commands.ended",
}

// KindMissed is the kind of the event that tells a reader of a gap.
const KindMissed = "missed"

// MarshalJSON implements json.Marshaler: an unknown number of missed events is null.
func (e Event) MarshalJSON() ([]byte, error) {
	type plain Event
	if e.Kind != KindMissed {
		return json.Marshal(plain(e))
	}
	return json.Marshal(struct {
		ID     string    `json:"id"`
		Kind   string    `json:"kind"`
		Time   time.Time `json:"time"`
		Missed *uint64   `json:"missed"`
	}{e.ID, e.Kind, e.Time, e.Missed})
}

// An EventID is the place of an event among all events: "1f0c22d9a3b4-17" is the 17th that
// the bus has passed on in one run of the daemon. The zero value is no event's.
type EventID struct {
	Run string // names the run, with the digits of hexadecimal numbers
	N   uint64 // 0: before the first event
}

func (id EventID) String() string { return id.Run + "-" + strconv.FormatUint(id.N, 10) }

const maxRun = 32 // characters of EventID.Run

// ParseEventID reads the ID of an event.
func ParseEventID(s string) (EventID, error) {
	run, number, _ := strings.Cut(s, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || run == "" || len(run) > maxRun || strings.Trim(run, "0123456789abcdef") != "" || strconv.FormatUint(n, 10) != number {
		return EventID{}, fmt.Errorf("%.80q is not the ID of an event (one like 1f0c22d9a3b4-17, as the events have it)", s)
	}
	return EventID{run, n}, nil
}

// An EventQuery says which events a reader wants. Filters that are empty let everything
// through; an event without the field that a filter looks at does not pass it.
type EventQuery struct {
	Kinds     []string // or the part before the dot: grant
	Clients   []netip.Prefix
	Sequences []string
	Doors     []string
	After     EventID // the events behind this one; zero: see Once
	Recent    int     // so many of those that are kept come first, if After is zero
	Once      bool    // end with what is kept (without After and Recent, all of it) and do not wait for more
}

// maxFilters bounds how many values the filters of a query have together.
const maxFilters = 256

// An EventReader reads events.
type EventReader interface {
	// Next waits until there are events for the reader, or ctx is done; then the batch may
	// be empty. An error ends the reading.
	Next(ctx context.Context) (EventBatch, error)
	Close()
}

// An EventBatch has events in their order.
type EventBatch struct {
	Events []Event
	Last   EventID // of the latest event that the reader is past, whether or not it wanted it
	More   bool    // there is more to read already
}

// parseEventQuery reads the query and the Last-Event-ID of a request. Its error is a
// *Problem.
func parseEventQuery(r *http.Request) (q EventQuery, err error) {
	bad := func(key string, err error) (EventQuery, error) {
		return EventQuery{}, NewProblem(http.StatusBadRequest, fmt.Sprintf("%s: %v", key, err))
	}
	last := r.Header.Get("Last-Event-ID")
	values := r.URL.Query()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		list := slices.DeleteFunc(strings.Split(strings.Join(values[key], ","), ","), func(s string) bool { return s == "" })
		switch key {
		case "kind":
			q.Kinds = list
		case "sequence":
			q.Sequences = list
		case "door":
			q.Doors = list
		case "client":
			for _, s := range list {
				p, err := ParseScope(s)
				if err != nil {
					return bad(key, fmt.Errorf("%.80q is %w", s, err))
				}
				q.Clients = append(q.Clients, p)
			}
		case "last_event_id":
			if last == "" { // a browser that connects again sends the header and the same URL
				last = values.Get(key)
			}
		case "recent":
			if q.Recent, err = strconv.Atoi(values.Get(key)); err != nil || q.Recent < 0 {
				return bad(key, fmt.Errorf("%.80q is not a number of events", values.Get(key)))
			}
		case "once":
			if q.Once, err = strconv.ParseBool(values.Get(key)); err != nil {
				return bad(key, fmt.Errorf("%.80q is neither true nor false", values.Get(key)))
			}
		default:
			return bad("query", fmt.Errorf("there is no %.80q (kind, client, sequence, door, last_event_id, recent, once)", key))
		}
	}
	if len(q.Kinds)+len(q.Clients)+len(q.Sequences)+len(q.Doors) > maxFilters {
		return bad("query", fmt.Errorf("too many filters (up to %d)", maxFilters))
	}
	if last != "" {
		if q.After, err = ParseEventID(last); err != nil {
			return bad("Last-Event-ID", err)
		}
	}
	return q, nil
}

const (
	// heartbeat is after how much silence a comment is sent, so that what is between does
	// not take the connection for dead.
	heartbeat = 15 * time.Second
	// streamPatience is how long a reader may take none of what is sent before the
	// connection is closed. It may connect again, and is told what it has missed.
	streamPatience = 30 * time.Second
	// streamPause is the time between two batches. What comes in it is sent at once, so
	// that a flood of knocks costs a reader's goroutine no more than a part of its time.
	streamPause = 50 * time.Millisecond
)

// streamEvents answers with server-sent events (WHATWG HTML, section 9.2) until the
// reader has gone or the daemon stops.
func streamEvents(control Control) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query, err := parseEventQuery(r)
		var reader EventReader
		if err == nil {
			reader, err = control.Events(r.Context(), query)
		}
		if err != nil {
			fail(w, err)
			return
		}
		defer reader.Close()
		w.Header().Set("Content-Type", "text/event-stream")
		if r.Method == http.MethodHead {
			return
		}
		ctx, cancel := streamContext(r.Context())
		defer cancel()
		connection := http.NewResponseController(w)
		var text bytes.Buffer
		for wait := time.Duration(0); ; wait = heartbeat { // what is there already is sent at once
			batch, err := next(ctx, reader, wait)
			if err != nil || ctx.Err() != nil {
				return
			}
			text.Reset()
			for _, e := range batch.Events {
				writeEvent(&text, e)
			}
			if len(batch.Events) == 0 {
				text.WriteString(": alive\n")
			}
			// An ID without data is no event, but what the reader asks with when it connects
			// again.
			fmt.Fprintf(&text, "id: %s\n\n", batch.Last)
			connection.SetWriteDeadline(time.Now().Add(streamPatience))
			if _, err := w.Write(text.Bytes()); err != nil || connection.Flush() != nil {
				return
			}
			if query.Once {
				if !batch.More {
					return
				}
				wait = 0
				continue
			}
			select {
			case <-time.After(streamPause):
			case <-ctx.Done():
				return
			}
		}
	}
}

// next returns the next events, or none if there are none for so long.
func next(ctx context.Context, reader EventReader, wait time.Duration) (EventBatch, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return reader.Next(ctx)
}

// writeEvent appends an event in the form of server-sent events. JSON has no line ends.
func writeEvent(text *bytes.Buffer, e Event) {
	fmt.Fprintf(text, "id: %s\nevent: %s\ndata: ", e.ID, e.Kind)
	json.NewEncoder(text).Encode(e) // ends the line; cannot fail
	text.WriteString("\n")
}

type streamsKey struct{}

// withStreams returns a context whose streams end when streams is done.
func withStreams(ctx, streams context.Context) context.Context {
	return context.WithValue(ctx, streamsKey{}, streams)
}

// streamContext returns the context of an answer that has no end of its own: it ends with
// the request, or when the server begins to shut down.
func streamContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	streams, ok := ctx.Value(streamsKey{}).(context.Context)
	if !ok {
		return ctx, cancel
	}
	stop := context.AfterFunc(streams, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
