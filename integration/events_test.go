package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// told is an event as the program tells it.
type told struct {
	ID, Kind, Client, Sequence, Door, User, Grant, Reason, Outcome, Result string
	Missed                                                                 *int
}

// place returns the run of the daemon and the number that the ID of an event has.
func (e told) place(t testing.TB) (run string, number int) {
	t.Helper()
	run, text, _ := strings.Cut(e.ID, "-")
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("ID %q of %+v", e.ID, e)
	}
	return run, number
}

// a reader reads events from something that prints one a line.
type reader struct {
	t    testing.TB
	mu   sync.Mutex
	all  []told
	more chan struct{}
}

func newReader(t testing.TB, from io.Reader) *reader {
	r := &reader{t: t, more: make(chan struct{}, 1)}
	go func() {
		for s := bufio.NewScanner(from); s.Scan(); {
			var e told
			if err := json.Unmarshal(s.Bytes(), &e); err != nil {
				e.Kind = "no JSON: " + s.Text()
			}
			r.mu.Lock()
			r.all = append(r.all, e)
			r.mu.Unlock()
		}
	}()
	return r
}

func (r *reader) events() []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// wait waits for an event, and returns it.
func (r *reader) wait(what string, is func(told) bool) (found told) {
	r.t.Helper()
	until(r.t, what, func() bool {
		all := r.events()
		i := slices.IndexFunc(all, is)
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// mustHaveNoGap checks that the events are those of one run, each after the other.
func mustHaveNoGap(t testing.TB, all []told) {
	t.Helper()
	for i := 1; i < len(all); i++ {
		run, n := all[i-1].place(t)
		if next, m := all[i].place(t); next != run || m != n+1 {
			t.Errorf("%+v follows %+v", all[i], all[i-1])
		}
	}
}

// follow starts webknock events --follow.
func (w *world) follow(args ...string) (*process, *reader) {
	w.t.Helper()
	cmd := exec.Command(binary, append([]string{"events", "--follow", "--output", "json", "--socket", filepath.Join(w.dir, "webknock.sock")}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	p := w.start(cmd)
	return p, newReader(w.t, out)
}

func opened(door string) func(told) bool {
	return func(e told) bool { return e.Kind == "grant.opened" && e.Door == door }
}

func TestEventsTellWhatHappensWithoutAGap(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	p, events := w.follow()
	until(t, "the first knock is told", func() bool { // nobody knows from outside when the reader is there
		w.knock(w.alice, serverIP, "/favicon.ico")
		return len(events.events()) > 0
	})
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	grant := events.wait("a grant", opened("ssh"))
	w.must("reload")
	events.wait("the reload", func(e told) bool { return e.Kind == "reload" && e.Result == "done" })
	w.knock(w.mallory, serverIP, "/a", "/wrong")
	last := events.wait("a knock that misses, after the reload", func(e told) bool { return e.Client == malloryIP && e.Outcome == "missed" })
	before := events.events()
	mustHaveNoGap(t, before)
	var outcomes []string
	for _, e := range before {
		if e.Kind == "knock" && e.Client == aliceIP && e.Outcome != "missed" && e.Outcome != "ignored" {
			outcomes = append(outcomes, e.Outcome)
		}
	}
	if got := strings.Join(outcomes, " "); got != "matched matched completed" {
		t.Errorf("alice's knocks: %s", got)
	}
	if grant.Client != aliceIP || grant.Sequence != "ssh" || grant.Grant == "" {
		t.Errorf("the grant: %+v", grant)
	}

	// While nobody reads, things go on.
	p.stop(t, syscall.SIGKILL)
	w.must("close", grant.Grant)
	w.knock(w.mallory, serverIP, "/nothing")
	w.must("reload")
	w.must("open", "web", aliceIP)
	_, again := w.follow("--after", last.ID)
	again.wait("the grant that was opened meanwhile", opened("web"))
	again.wait("the knock that came meanwhile", func(e told) bool { return e.Client == malloryIP })
	mustHaveNoGap(t, append([]told{last}, again.events()...))
	kinds := map[string]bool{}
	for _, e := range again.events() {
		kinds[e.Kind] = true
	}
	for _, kind := range []string{"grant.closed", "reload"} {
		if !kinds[kind] {
			t.Errorf("no %s among what happened while nobody read", kind)
		}
	}
	if out := w.must("events", "--kind", "grant.closed,reload", "--after", before[0].ID); strings.Count(out, "\n") != 3 || !strings.Contains(out, "grant.closed") {
		t.Errorf("what is kept: %s", out)
	}
	if out := w.must("events", "--client", malloryIP, "--door", "ssh"); out != "no events\n" {
		t.Errorf("of mallory at the door: %s", out)
	}
	if out := w.must("events", "--client", aliceIP+"/30", "--door", "ssh", "--kind", "grant"); strings.Count(out, "\n") != 2 {
		t.Errorf("of alice at the door: %s", out)
	}
}

func TestEventsGoOnWithTheNextDaemonAndSayWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	p, events := w.follow("--kind", "grant,reload")
	until(t, "the reader is there", func() bool {
		w.must("reload")
		return len(events.events()) > 0
	})
	w.daemon.stop(t, syscall.SIGTERM)
	p.wait(t, "waiting for the next daemon")
	w.serve(standard)
	events.wait("it says that events are missing", func(e told) bool { return e.Kind == "missed" && e.Missed == nil })
	w.must("open", "ssh", aliceIP)
	grant := events.wait("what happens in the next daemon", opened("ssh"))
	before, _ := events.events()[0].place(t)
	if after, _ := grant.place(t); after == before {
		t.Errorf("both daemons tell events of the run %s", after)
	}
	p.stop(t, syscall.SIGINT)
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("interrupted, it exits %d", code)
	}
}

// A reader that takes nothing fills the buffers of its own connection, and nothing else.
func TestAReaderOfEventsThatStallsDelaysNothing(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	stalled, err := net.Dial("unix", filepath.Join(w.dir, "webknock.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	fmt.Fprint(stalled, "GET /v1/events HTTP/1.1\r\nHost: webknock\r\n\r\n")
	_, events := w.follow("--kind", "grant")
	until(t, "the other reader is there", func() bool {
		w.must("open", "web", aliceIP)
		return len(events.events()) > 0
	})
	const rounds = 3000 // more than two events each: beyond what the socket's buffers and the ring hold
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.dir, "webknock.sock"))
	}}}
	for i := range rounds {
		body := fmt.Sprintf(`{"door":"ssh","client":"10.%d.%d.1"}`, i/250, i%250)
		res, err := client.Post("http://webknock/v1/grants", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var grant struct{ ID string }
		if err := json.NewDecoder(res.Body).Decode(&grant); err != nil || res.StatusCode != 201 {
			t.Fatalf("grant %d: %s, %v", i, res.Status, err)
		}
		res.Body.Close()
		req, err := http.NewRequest("DELETE", "http://webknock/v1/grants/"+grant.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err = client.Do(req); err != nil || res.StatusCode != 204 {
			t.Fatalf("close %d: %v", i, err)
		}
		res.Body.Close()
	}
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	events.wait("the other reader gets the last of it", func(e told) bool { return e.Client == aliceIP && e.Kind == "grant.opened" && e.Door == "ssh" })
	count := 0
	for _, e := range events.events() {
		if e.Kind == "grant.closed" && e.Door == "ssh" {
			count++
		}
	}
	if count != rounds {
		t.Errorf("the other reader was told of %d grants", count)
	}
	// The stalled one is told how many it has missed; if it was let go meanwhile, when it
	// connects again.
	missed, last := missing(stalled)
	if missed == "" {
		again, err := net.Dial("unix", filepath.Join(w.dir, "webknock.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		fmt.Fprintf(again, "GET /v1/events HTTP/1.1\r\nHost: webknock\r\nLast-Event-ID: %s\r\n\r\n", last)
		missed, _ = missing(again)
	}
	if missed == "" || strings.Contains(missed, "null") {
		t.Errorf("the reader that stalled is told %q after %s", missed, last)
	}
}

// missing reads a stream of events until one says that some are missing, or its end. Last
// is the latest ID before that.
func missing(stream io.Reader) (missed, last string) {
	for lines := bufio.NewScanner(stream); lines.Scan(); {
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			last = id
		}
		if strings.HasPrefix(lines.Text(), `data: {`) && strings.Contains(lines.Text(), `"missed":`) {
			return lines.Text(), last
		}
	}
	return "", last
}

func TestTheAdminAPIIsSafeFromPagesOfOthers(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	ask := func(args ...string) string {
		t.Helper()
		args = append([]string{"--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket", filepath.Join(w.dir, "webknock.sock")}, args...)
		out, err := exec.Command("curl", args...).Output()
		if err != nil {
			t.Fatalf("curl %q: %v", args, err)
		}
		return string(out)
	}
	open := []string{"--json", `{"door":"ssh","client":"10.20.0.2"}`}
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"200", []string{"http://webknock/v1/grants"}},
		{"200", []string{"http://127.0.0.1:8080/v1/grants"}},
		{"403", []string{"http://rebound.example.org/v1/grants"}},
		{"403", []string{"http://rebound.example.org:8080/v1/events?once=true"}},
		{"403", []string{"http://localhost/v1/grants", "-H", "Origin: http://example.org"}},
		{"403", []string{"http://localhost/v1/grants", "-H", "Sec-Fetch-Site: cross-site"}},
		{"200", []string{"http://localhost:1/v1/grants", "-H", "Origin: http://localhost:1", "-H", "Sec-Fetch-Site: same-origin"}},
		{"403", append([]string{"http://localhost:1/v1/grants", "-H", "Origin: http://localhost:1"}, open...)},
		{"403", append([]string{"http://localhost:1/v1/grants", "-H", "Origin: http://localhost:2", "-H", "X-Webknock: 1"}, open...)},
		{"415", []string{"http://localhost/v1/grants", "--data", `{"door":"ssh","client":"10.20.0.2"}`}},
	} {
		if got := ask(tt.args...); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.args, got, tt.want)
		}
	}
	w.mustHold()
	if got := ask(append([]string{"http://localhost:1/v1/grants", "-H", "Origin: http://localhost:1", "-H", "X-Webknock: 1"}, open...)...); got != "201" {
		t.Errorf("the page itself: %s", got)
	}
}
