package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A script is a reader of events that has batches to give, and then waits.
type script struct {
	batches []EventBatch
	end     error // after the batches; nil: wait
	closed  bool
}

func (s *script) Next(ctx context.Context) (EventBatch, error) {
	if len(s.batches) > 0 {
		batch := s.batches[0]
		s.batches = s.batches[1:]
		return batch, nil
	}
	if s.end != nil {
		return EventBatch{}, s.end
	}
	<-ctx.Done()
	return EventBatch{Last: EventID{"abc", 99}}, nil
}

func (s *script) Close() { s.closed = true }

func repairs(numbers ...uint64) (batch EventBatch) {
	for _, n := range numbers {
		batch.Last = EventID{"abc", n}
		batch.Events = append(batch.Events, Event{ID: batch.Last.String(), Kind: "repair", Reason: "a\nb"})
	}
	return batch
}

func TestEventsAreServerSentEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := uint64(3)
		reader := &script{batches: []EventBatch{
			{Events: []Event{{ID: "abc-4", Kind: "missed", Missed: &lost}, {ID: "abc-4", Kind: "missed"}}, Last: EventID{"abc", 4}},
			repairs(5, 6),
		}}
		f := &fake{events: func(EventQuery) (EventReader, error) { return reader, nil }}
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second) // of the bubble
		defer cancel()
		w := httptest.NewRecorder()
		Handler(f).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "http://webknock/v1/events", nil))
		const at = `"time":"0001-01-01T00:00:00Z"`
		want := "id: abc-4\nevent: missed\ndata: {\"id\":\"abc-4\",\"kind\":\"missed\"," + at + ",\"missed\":3}\n\n" +
			"id: abc-4\nevent: missed\ndata: {\"id\":\"abc-4\",\"kind\":\"missed\"," + at + ",\"missed\":null}\n\nid: abc-4\n\n" +
			"id: abc-5\nevent: repair\ndata: {\"id\":\"abc-5\",\"kind\":\"repair\"," + at + ",\"reason\":\"a\\nb\"}\n\n" +
			"id: abc-6\nevent: repair\ndata: {\"id\":\"abc-6\",\"kind\":\"repair\"," + at + ",\"reason\":\"a\\nb\"}\n\nid: abc-6\n\n" +
			": alive\nid: abc-99\n\n: alive\nid: abc-99\n\n"
		if got := w.Body.String(); got != want || w.Header().Get("Content-Type") != "text/event-stream" || !reader.closed {
			t.Errorf("%q, closed %v\n got %s\nwant %s", w.Header(), reader.closed, got, want)
		}
	})
}

func TestTheQueryOfEvents(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, tt := range []struct {
		query, last string
		want        EventQuery
		wrong       string // part of the error
	}{
		{"", "", EventQuery{}, ""},
		{"kind=knock&kind=ban,grant", "", EventQuery{Kinds: []string{"knock", "ban", "grant"}}, ""},
		{"kind=&door=,", "", EventQuery{}, ""},
		{"client=192.0.2.7,2001:db8::/32&client=::ffff:192.0.2.8", "", EventQuery{Clients: []netip.Prefix{prefix("192.0.2.7/32"), prefix("2001:db8::/32"), prefix("192.0.2.8/32")}}, ""},
		{"client=192.0.2.7/24", "", EventQuery{Clients: []netip.Prefix{prefix("192.0.2.0/24")}}, ""},
		{"sequence=ssh&door=a&door=b", "", EventQuery{Sequences: []string{"ssh"}, Doors: []string{"a", "b"}}, ""},
		{"recent=10", "", EventQuery{Recent: 10}, ""},
		{"once=true", "", EventQuery{Once: true}, ""},
		{"", "0a-17", EventQuery{After: EventID{"0a", 17}}, ""},
		{"last_event_id=0a-17", "", EventQuery{After: EventID{"0a", 17}}, ""},
		{"last_event_id=0a-17", "0a-18", EventQuery{After: EventID{"0a", 18}}, ""},
		{"client=here", "", EventQuery{}, `client: "here" is not an address or prefix (like 192.0.2.7`},
		{"client=fe80::1%25eth0", "", EventQuery{}, "not an address"},
		{"client=192.0.2.7/33", "", EventQuery{}, "not an address"},
		{"client=::ffff:192.0.2.0/120", "", EventQuery{}, "not an address"},
		{"recent=-1", "", EventQuery{}, `recent: "-1" is not a number`},
		{"recent=", "", EventQuery{}, "not a number"},
		{"once=perhaps", "", EventQuery{}, `once: "perhaps" is neither true nor false`},
		{"knid=ban", "", EventQuery{}, `there is no "knid" (kind, client,`},
		{"", "17", EventQuery{}, `Last-Event-ID: "17" is not the ID of an event`},
		{"", "-17", EventQuery{}, "not the ID"},
		{"", "0a-", EventQuery{}, "not the ID"},
		{"", "0a-+1", EventQuery{}, "not the ID"},
		{"", "0a-01", EventQuery{}, "not the ID"},
		{"", "0A-1", EventQuery{}, "not the ID"},
		{"", "0a-18446744073709551616", EventQuery{}, "not the ID"},
		{"", strings.Repeat("a", 33) + "-1", EventQuery{}, "not the ID"},
		{"door=" + strings.Repeat("a,", 257), "", EventQuery{}, "too many filters (up to 256)"},
	} {
		r := httptest.NewRequest("GET", "/v1/events?"+tt.query, nil)
		if tt.last != "" {
			r.Header.Set("Last-Event-ID", tt.last)
		}
		got, err := parseEventQuery(r)
		var p *Problem
		switch {
		case tt.wrong == "" && (err != nil || !sameQuery(got, tt.want)):
			t.Errorf("%q, %q: %+v, %v", tt.query, tt.last, got, err)
		case tt.wrong != "" && (!errors.As(err, &p) || p.Status != 400 || !strings.Contains(p.Detail, tt.wrong)):
			t.Errorf("%q, %q: %v, want %q", tt.query, tt.last, err, tt.wrong)
		}
	}
}

// sameQuery reports whether two queries ask for the same; no value and an empty list are
// the same filter.
func sameQuery(a, b EventQuery) bool {
	return slices.Equal(a.Kinds, b.Kinds) && slices.Equal(a.Clients, b.Clients) && slices.Equal(a.Sequences, b.Sequences) &&
		slices.Equal(a.Doors, b.Doors) && a.After == b.After && a.Recent == b.Recent && a.Once == b.Once
}

// What is read from a stranger's query is bounded, and means the same when the client of
// this package writes it again.
func FuzzTheQueryOfEvents(f *testing.F) {
	f.Add("kind=knock&client=192.0.2.0/24,::1&door=a", "0a-17")
	f.Add("recent=3&once=1&sequence=%2c", "x")
	f.Fuzz(func(t *testing.T, query, last string) {
		r := httptest.NewRequest("GET", "/v1/events", nil)
		r.URL.RawQuery = query
		r.Header["Last-Event-ID"] = []string{last}
		q, err := parseEventQuery(r)
		if err != nil {
			var p *Problem
			if !errors.As(err, &p) || p.Status != 400 || p.Detail == "" || len(p.Detail) > 1000 {
				t.Fatalf("error %v", err)
			}
			return
		}
		if n := len(q.Kinds) + len(q.Clients) + len(q.Sequences) + len(q.Doors); n > maxFilters || q.Recent < 0 {
			t.Fatalf("%d filters, %d recent", n, q.Recent)
		}
		for _, p := range q.Clients {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				t.Fatalf("client %v", p)
			}
		}
		again := httptest.NewRequest("GET", "/v1/events", nil)
		again.URL.RawQuery = q.encode()
		if q.After != (EventID{}) {
			again.Header.Set("Last-Event-ID", q.After.String())
		}
		if q2, err := parseEventQuery(again); err != nil || !sameQuery(q, q2) {
			t.Fatalf("%+v is written as %q and read as %+v, %v", q, q.encode(), q2, err)
		}
	})
}

func TestAnEventIsReadAsItWasWritten(t *testing.T) {
	n := uint64(3)
	for _, e := range []Event{
		{ID: "a-1", Kind: "missed", Missed: &n}, {ID: "a-1", Kind: "missed"},
		{ID: "a-2", Kind: "degraded", Problems: List[string]{}}, {ID: "a-3", Kind: "ban", Client: "192.0.2.1", ExpiresAt: time.Unix(1e9, 0).UTC()},
	} {
		text, err := json.Marshal(e)
		var got Event
		if err := errors.Join(err, json.Unmarshal(text, &got)); err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%+v became %s and %+v, %v", e, text, got, err)
		}
	}
}

func TestTheClientReadsEvents(t *testing.T) {
	api, f := serve(t)
	var asked EventQuery
	f.events = func(q EventQuery) (EventReader, error) {
		asked = q
		return &script{batches: []EventBatch{repairs(3, 4), repairs(7)}, end: io.EOF}, nil
	}
	q := EventQuery{Kinds: []string{"repair"}, Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, After: EventID{"abc", 2}}
	var got []string
	last, err := api.Events(t.Context(), q, func(e Event) error {
		got = append(got, e.ID+" "+e.Reason)
		return nil
	})
	if !errors.Is(err, errStreamEnded) || last != (EventID{"abc", 7}) || !slices.Equal(got, []string{"abc-3 a\nb", "abc-4 a\nb", "abc-7 a\nb"}) {
		t.Errorf("%q, last %v, %v", got, last, err)
	}
	if !sameQuery(asked, q) {
		t.Errorf("asked for %+v, want %+v", asked, q)
	}
	enough := errors.New("enough")
	if last, err := api.Events(t.Context(), q, func(Event) error { return enough }); !errors.Is(err, enough) || last.N != 3 {
		t.Errorf("stopped: last %v, %v", last, err)
	}
	f.events = nil
	var p *Problem
	if _, err := api.Events(t.Context(), q, nil); !errors.As(err, &p) || p.Status != 503 {
		t.Errorf("refused: %v", err)
	}
}

func TestAReaderFollowsFromOneDaemonToTheNext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	log := slog.New(slog.DiscardHandler)
	run := func(f *fake) (stop func()) {
		l, err := Listen(socket, "no-such-group", log)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { Serve(ctx, l, f, log) })
		return func() {
			cancel()
			wg.Wait()
			l.Close()
		}
	}
	api := API{Socket: socket}
	if err := api.Follow(t.Context(), EventQuery{}, nil, nil); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("without a daemon: %v", err)
	}
	asked := make(chan EventID, 10)
	daemon := func(batches ...EventBatch) *fake {
		return &fake{events: func(q EventQuery) (EventReader, error) {
			asked <- q.After
			return &script{batches: batches}, nil
		}}
	}
	stop := run(daemon(repairs(3)))
	ctx, cancel := context.WithCancel(t.Context())
	events, ended := make(chan string, 10), make(chan error)
	lost := make(chan error, 10)
	go func() {
		ended <- api.Follow(ctx, EventQuery{}, func(e Event) error {
			events <- e.ID
			return nil
		}, func(err error) { lost <- err })
	}()
	if id := <-events; id != "abc-3" {
		t.Errorf("first %s", id)
	}
	began := time.Now()
	stop()
	if err := <-lost; err == nil {
		t.Error("lost for no reason")
	}
	if took := time.Since(began); took > stopTimeout {
		t.Errorf("a reader holds up the stop: it took %v", took)
	}
	stop = run(daemon(repairs(4)))
	defer stop()
	if id := <-events; id != "abc-4" {
		t.Errorf("then %s", id)
	}
	if first, second := <-asked, <-asked; first != (EventID{}) || second != (EventID{"abc", 3}) {
		t.Errorf("asked for what comes after %v and %v", first, second)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("at the end: %v", err)
	}
}

// The server's own limits of time are for answers that end.
func TestAStreamOutlivesTheTimesOfOtherAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := uint64(0)
		f := &fake{events: func(EventQuery) (EventReader, error) {
			return readerFunc(func(ctx context.Context) (EventBatch, error) {
				<-ctx.Done() // a heartbeat long
				n++
				return repairs(n), nil
			}), nil
		}}
		l := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { Serve(ctx, l, f, slog.New(slog.DiscardHandler)) })
		conn := l.dial()
		fmt.Fprint(conn, "GET /v1/events HTTP/1.1\r\nHost: webknock\r\n\r\n")
		got := make(chan int)
		go func() {
			text, _ := io.ReadAll(conn)
			got <- strings.Count(string(text), "event: repair")
		}()
		time.Sleep(10*time.Minute + time.Second)
		began := time.Now()
		cancel()
		wg.Wait()
		if events := <-got; events < 40 || time.Since(began) >= stopTimeout {
			t.Errorf("%d events in ten minutes, and the stop took %v", events, time.Since(began))
		}
	})
}

func TestAReaderThatTakesNothingIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		f := &fake{events: func(EventQuery) (EventReader, error) {
			return &closing{script{batches: []EventBatch{repairs(1)}}, closed}, nil
		}}
		l := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { Serve(ctx, l, f, slog.New(slog.DiscardHandler)) })
		defer wg.Wait()
		defer cancel()
		conn := l.dial()
		defer conn.Close()
		fmt.Fprint(conn, "GET /v1/events HTTP/1.1\r\nHost: webknock\r\n\r\n")
		began := time.Now()
		<-closed
		if took := time.Since(began); took < streamPatience || took > 2*streamPatience {
			t.Errorf("after %v", took)
		}
	})
}

type readerFunc func(context.Context) (EventBatch, error)

func (f readerFunc) Next(ctx context.Context) (EventBatch, error) { return f(ctx) }
func (f readerFunc) Close()                                       {}

type closing struct {
	script
	closed chan struct{}
}

func (c *closing) Close() { close(c.closed) }

// pipes is a listener of connections without a buffer.
type pipes struct {
	accept chan net.Conn
	end    chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{accept: make(chan net.Conn), end: make(chan struct{})} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.accept <- theirs
	return ours
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.end:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.end) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// A browser's EventSource gives a page only the kinds that it names.
func TestThePageNamesEveryKindOfEvents(t *testing.T) {
	script, err := os.ReadFile("page/files/live.js")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(script), "const kinds = [")
	list, _, _ = strings.Cut(list, "]")
	var kinds []string
	for _, quoted := range strings.Split(list, ",") {
		kinds = append(kinds, strings.Trim(quoted, " '\n\t"))
	}
	if want := append(slices.Clone(EventKinds), KindMissed); !slices.Equal(slices.Sorted(slices.Values(kinds)), slices.Sorted(slices.Values(want))) {
		t.Errorf("it names %q, want %q", kinds, want)
	}
}
