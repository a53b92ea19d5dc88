package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fake is a daemon with one door.
type fake struct {
	events func(EventQuery) (EventReader, error)
	closed []string
	peers  []Credentials // who has asked for unguard
}

func (f *fake) Status(context.Context) (Status, error) {
	return Status{State: Degraded, Problems: []string{"on fire"}}, nil
}
func (f *fake) Clients(context.Context) ([]Client, error) { return nil, nil }
func (f *fake) Grants(context.Context) ([]Grant, error)   { return []Grant{{ID: "a"}}, nil }
func (f *fake) Open(_ context.Context, r OpenRequest) (Grant, error) {
	if r.Door != "ssh" {
		return Grant{}, NewProblem(http.StatusNotFound, "no such door")
	}
	return Grant{ID: "b", Client: r.Client}, nil
}
func (f *fake) Close(_ context.Context, id string) error { f.closed = append(f.closed, id); return nil }
func (f *fake) Extend(_ context.Context, id string, r ExtendRequest) (Grant, error) {
	if id != "b" {
		return Grant{}, NewProblem(http.StatusNotFound, "no such grant")
	}
	return Grant{ID: id, User: r.TTL}, nil
}
func (f *fake) Reload(context.Context, ReloadRequest) error { return errors.New("no") }
func (f *fake) Confirm(context.Context) error               { return nil }
func (f *fake) Unguard(ctx context.Context) error {
	p, ok := Peer(ctx)
	if !ok {
		return errors.New("asked by nobody")
	}
	f.peers = append(f.peers, p)
	return nil
}
func (f *fake) Bans(context.Context) ([]Ban, error) {
	return []Ban{{Client: "192.0.2.66", Remaining: 61}}, nil
}
func (f *fake) Unban(context.Context, string) error { return nil }
func (f *fake) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("up 1\n")) })
}
func (f *fake) Stats(context.Context) (Stats, error) {
	return Stats{Minutes: []Span{{Completions: 7}}}, nil
}
func (f *fake) History(_ context.Context, q HistoryQuery) (HistoryList, error) {
	next := fmt.Sprintf("%+v", q)
	return HistoryList{Entries: []HistoryEntry{{ID: 7, Event: "closed"}}, Next: &next, Last: 7}, nil
}

// Explain returns what it is asked, as a path.
func (f *fake) Explain(_ context.Context, address netip.Addr, reveal bool) (Explanation, error) {
	return Explanation{Client: address.String(), Knocks: []Knock{{Path: fmt.Sprint(reveal)}}}, nil
}

func (f *fake) Events(_ context.Context, q EventQuery) (EventReader, error) {
	if f.events == nil {
		return nil, NewProblem(http.StatusServiceUnavailable, "too many readers")
	}
	return f.events(q)
}

func serve(t *testing.T) (API, *fake) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path, "no-such-group", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := new(fake)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, l, f, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		l.Close()
	})
	return API{path}, f
}

func TestTheClientReachesTheControl(t *testing.T) {
	api, f := serve(t)
	ctx := t.Context()
	if s, err := api.Status(ctx); err != nil || s.State != Degraded || s.Problems[0] != "on fire" {
		t.Errorf("status %+v, %v", s, err)
	}
	if c, err := api.Clients(ctx); err != nil || c.Clients == nil {
		t.Errorf("clients %+v, %v: want an empty list", c, err)
	}
	if g, err := api.Grants(ctx); err != nil || len(g.Grants) != 1 {
		t.Errorf("grants %+v, %v", g, err)
	}
	if g, err := api.Open(ctx, OpenRequest{Door: "ssh", Client: "192.0.2.1"}); err != nil || g.ID != "b" || g.Client != "192.0.2.1" {
		t.Errorf("open %+v, %v", g, err)
	}
	var p *Problem
	if _, err := api.Open(ctx, OpenRequest{Door: "x"}); !errors.As(err, &p) || p.Status != http.StatusNotFound || p.Detail != "no such door" {
		t.Errorf("open an unknown door: %v", err)
	}
	if g, err := api.Extend(ctx, "b", ExtendRequest{"1h"}); err != nil || g.ID != "b" || g.User != "1h" {
		t.Errorf("extend %+v, %v", g, err)
	}
	if _, err := api.Extend(ctx, "x", ExtendRequest{}); !errors.As(err, &p) || p.Status != http.StatusNotFound {
		t.Errorf("extend an unknown grant: %v", err)
	}
	if err := api.Close(ctx, "a/b"); err != nil && !errors.As(err, &p) {
		t.Errorf("close: %v", err)
	}
	if err := api.Close(ctx, "a"); err != nil || f.closed[len(f.closed)-1] != "a" {
		t.Errorf("close: %v, %v", err, f.closed)
	}
	if err := api.Reload(ctx, ReloadRequest{}); !errors.As(err, &p) || p.Status != http.StatusInternalServerError || p.Detail != "no" {
		t.Errorf("reload: %v", err)
	}
	if err := api.Unguard(ctx); err != nil {
		t.Errorf("unguard: %v", err)
	}
	for _, bad := range []struct{ method, path string }{{"GET", "/v1/x"}, {"PUT", "/v1/status"}, {"GET", "/healthz"}} {
		if err := api.call(ctx, bad.method, bad.path, nil, nil); !errors.As(err, &p) || p.Status < 400 {
			t.Errorf("%s %s: %v", bad.method, bad.path, err)
		}
	}
	if err := api.call(ctx, "POST", "/v1/grants", map[string]string{"dor": "ssh"}, nil); !errors.As(err, &p) || p.Status != http.StatusBadRequest {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestTheControlIsToldWhoAsks(t *testing.T) {
	api, f := serve(t)
	if err := api.Unguard(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := Credentials{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), PID: int32(os.Getpid())}
	if len(f.peers) != 1 || f.peers[0] != want {
		t.Errorf("asked by %+v, want %+v", f.peers, want)
	}
	if _, ok := Peer(t.Context()); ok {
		t.Error("a context of no request has a peer")
	}
}

func TestASocketHasOneDaemon(t *testing.T) {
	api, _ := serve(t)
	if _, err := Listen(api.Socket, Group, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrInUse) {
		t.Errorf("second start: %v", err)
	}
}

func TestAStaleSocketIsReplacedAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd) // the file stays
	l, err := Listen(path, Group, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, Group, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that is not a socket was replaced")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

func TestWhoMayUseTheSocket(t *testing.T) {
	for _, tt := range []struct {
		uid, gid uint32
		groups   []uint32
		want     bool
	}{
		{0, 0, nil, true},
		{500, 1, nil, true},
		{1000, 1000, nil, false},
		{1000, 77, nil, true},
		{1000, 1000, []uint32{5, 77}, true},
		{1000, 1000, []uint32{5, 78}, false},
	} {
		cred := unix.Ucred{Uid: tt.uid, Gid: tt.gid}
		if got := allowed(cred, tt.groups, 500, 77); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
		if allowed(cred, tt.groups, 500, -1) != (tt.uid == 0 || tt.uid == 500) {
			t.Errorf("%+v without a group", tt)
		}
	}
}

func TestWithoutADaemonTheErrorHasAHint(t *testing.T) {
	_, err := API{filepath.Join(t.TempDir(), "none")}.Status(t.Context())
	if !errors.Is(err, ErrNoDaemon) || !strings.Contains(fmt.Sprint(err), "is webknock serve running?") {
		t.Errorf("error %v", err)
	}
}

func TestASocketThatMayBeInUseIsLeftAlone(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	t.Run("its queue is full", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
			t.Fatal(err)
		}
		waiting, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer waiting.Close()
		if _, err := Listen(path, Group, log); !errors.Is(err, ErrInUse) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("another kind", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		other, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if _, err := Listen(path, Group, log); err == nil {
			t.Error("it was replaced")
		}
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	})
	t.Run("it has taken the place of ours", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		ours, err := Listen(path, Group, log)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		theirs, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		if err := ours.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("ours has removed theirs: %v", err)
		}
	})
}

func TestEveryRequestGetsTheRightStatus(t *testing.T) {
	handler := Handler(new(fake))
	for _, tt := range []struct {
		method, path, body string
		status             int
		allow              string
	}{
		{"GET", "/v1/status", "", 200, ""},
		{"HEAD", "/v1/status", "", 200, ""},
		{"PUT", "/v1/status", "", 405, "GET"},
		{"PUT", "/v1/grants", "", 405, "GET, POST"},
		{"GET", "/v1/grants/a", "", 405, "DELETE"},
		{"GET", "/v1/nothing", "", 404, ""},
		{"POST", "/v1/grants", `{"door":"ssh"}`, 201, ""},
		{"POST", "/v1/grants", `{"door":"ssh"} more`, 400, ""},
		{"POST", "/v1/grants", `{"door":"ssh"}{}`, 400, ""},
		{"POST", "/v1/grants", ``, 400, ""},
		{"POST", "/v1/grants", `{"door":"` + strings.Repeat("x", maxBody) + `"}`, 413, ""},
	} {
		r := httptest.NewRequest(tt.method, "http://webknock"+tt.path, strings.NewReader(tt.body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if allow := strings.Join(w.Header()["Allow"], ", "); w.Code != tt.status || allow != tt.allow {
			t.Errorf("%s %s %.20s: %d, Allow %q; want %d, %q", tt.method, tt.path, tt.body, w.Code, allow, tt.status, tt.allow)
		}
	}
}

func TestListsAreNeverNull(t *testing.T) {
	for _, value := range []any{Status{}, Door{}, ClientList{}, GrantList{}} {
		text, err := json.Marshal(value)
		if err != nil || strings.Contains(string(text), "null") {
			t.Errorf("%T: %s, %v", value, text, err)
		}
	}
}
