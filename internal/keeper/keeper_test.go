package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/internal/front"
	"webknock/internal/seam"
)

const file = `
listeners: [{address: "127.0.0.1:1"}]
doors: [{name: ssh, ports: [22/tcp]}]
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
  - {name: hello, steps: [/a, /hello], strict: false, message: hello}
`

func parse(t interface {
	Helper()
	Fatal(...any)
}, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("w.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestOnlyARestartChangesSomeKeys(t *testing.T) {
	old := parse(t, file)
	for text, refused := range map[string]bool{
		"":                            false,
		"state: /srv/state":           true,
		"admin: {socket: /run/other}": true,
		"firewall: {table: other}":    true,
		"firewall: {backend: memory}": true,
		"log: {format: text}":         true,
		"log: {level: debug}":         false,
		"firewall: {mark: 0x1}":       false,
		"clients: {max: 1}":           false,
	} {
		if err := fixed(old, parse(t, file+text)); (err != nil) != refused {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestErrorsHaveTheRightHTTPStatus(t *testing.T) {
	for err, want := range map[error]int{
		firewall.ErrNoDoor:                       http.StatusNotFound,
		fmt.Errorf("x: %w", firewall.ErrNoGrant): http.StatusNotFound,
		firewall.ErrFull:                         http.StatusConflict,
		firewall.ErrUnguarded:                    http.StatusConflict,
		firewall.ErrBusy:                         http.StatusServiceUnavailable,
		errors.New("anything"):                   http.StatusInternalServerError,
	} {
		var p *admin.Problem
		if got := problemOf(err); !errors.As(got, &p) || p.Status != want {
			t.Errorf("%v: %v, want %d", err, got, want)
		}
	}
	if problemOf(nil) != nil {
		t.Error("nil is a problem")
	}
}

// newFront makes the other half of a daemon.
func newFront(o FrontOptions) seam.Front {
	return front.New(front.Options{Keeper: o.Keeper, Log: o.Log})
}

// What Start's comment guarantees.
func TestPartsStopInTheOrderThatStartSays(t *testing.T) {
	_, path, stop := dryRun(t, 0)
	stop()
	start, err := Choose(path, false, true)
	if err != nil {
		t.Fatal(err)
	}
	k := New(Options{ConfigFile: path, Start: start, Socket: filepath.Join(t.TempDir(), "s"), DryRun: true, Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Front: newFront})
	defer k.Stop()
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := len(k.lifecycle.cleanups)
	for _, name := range []string{
		"the admin API", "the confirmation", "the front", "bans", "the gate", "the readers of events", "notices and commands",
		"the firewall's connection", "the addresses", "the state", "the admin socket",
	} {
		i := slices.IndexFunc(k.lifecycle.cleanups, func(c cleanup) bool { return c.name == name })
		if i < 0 || i >= last {
			t.Errorf("%s stops at %d, before what should stop before it, at %d", name, i, last)
		}
		last = i
	}
}

// dryRun starts a whole daemon that touches no firewall.
func dryRun(t *testing.T, confirm time.Duration) (api admin.API, path string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "w.yaml"), filepath.Join(dir, "s")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	if err := os.WriteFile(path, []byte(strings.Replace(file, "127.0.0.1:1", free.Addr().String(), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	log := slog.New(onMessage{"DRY RUN", ready})
	ended := make(chan error, 1)
	start, err := Choose(path, false, true)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		ended <- Run(ctx, Options{ConfigFile: path, Start: start, Socket: socket, DryRun: true, Confirm: confirm, Version: "v", Log: log, Level: new(slog.LevelVar), Front: newFront}, nil)
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return admin.API{Socket: socket}, path, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestAStartThatNobodyConfirmsIsUndone(t *testing.T) {
	api, _, stop := dryRun(t, time.Second)
	defer stop()
	var s admin.Status
	for s.State != admin.Degraded {
		var err error
		if s, err = api.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "nobody has confirmed") || s.ConfirmBy != nil {
		t.Errorf("status %+v", s)
	}
	if err := api.Confirm(t.Context()); err == nil {
		t.Error("confirmed though it was too late")
	}
	if err := api.Reload(t.Context(), admin.ReloadRequest{}); err != nil {
		t.Error(err)
	}
	if s, err := api.Status(t.Context()); err != nil || s.State != admin.OK {
		t.Errorf("after the reload: %+v, %v", s, err)
	}
}

func TestAChangeThatIsConfirmedStays(t *testing.T) {
	api, path, stop := dryRun(t, time.Hour)
	defer stop()
	if s, err := api.Status(t.Context()); err != nil || s.ConfirmBy == nil {
		t.Errorf("status %+v, %v", s, err)
	}
	var p *admin.Problem
	if err := api.Reload(t.Context(), admin.ReloadRequest{}); !errors.As(err, &p) || p.Status != http.StatusConflict {
		t.Errorf("a reload while the start waits: %v", err)
	}
	if err := api.Confirm(t.Context()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "ssh", "other")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := api.Reload(t.Context(), admin.ReloadRequest{Confirm: "1s"}); err != nil {
		t.Fatal(err)
	}
	door := func() string {
		s, err := api.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Doors[0].Name
	}
	if door() != "other" {
		t.Error("the change is not in force")
	}
	for door() != "ssh" { // until it is undone
	}
	if err := api.Reload(t.Context(), admin.ReloadRequest{Confirm: "1h"}); err != nil {
		t.Fatal(err)
	}
	if err := api.Confirm(t.Context()); err != nil || door() != "other" {
		t.Errorf("door %s, %v", door(), err)
	}
	if err := api.Reload(t.Context(), admin.ReloadRequest{Confirm: "soon"}); !errors.As(err, &p) || p.Status != http.StatusBadRequest {
		t.Errorf("no duration: %v", err)
	}
}

// A whole daemon, over its API.
func TestADaemonStartsServesAndStops(t *testing.T) {
	api, path, stop := dryRun(t, 0)
	ctx := t.Context()
	grant, err := api.Open(ctx, admin.OpenRequest{Door: "ssh", Client: "192.0.2.1"})
	if err != nil || grant.Client != "192.0.2.1" || grant.Remaining < 1 {
		t.Errorf("open: %+v, %v", grant, err)
	}
	if s, err := api.Status(ctx); err != nil || s.State != admin.OK || s.Grants != 1 || s.Firewall.Backend != "memory" {
		t.Errorf("status: %+v, %v", s, err)
	}
	if err := api.Close(ctx, grant.ID); err != nil {
		t.Error(err)
	}
	if list, err := api.Grants(ctx); err != nil || len(list.Grants) != 0 {
		t.Errorf("grants: %+v, %v", list, err)
	}
	for _, bad := range []admin.OpenRequest{{Door: "ssh", Client: "x"}, {Door: "ssh", Client: "fe80::1%lo"}, {Door: "ssh", Client: "192.0.2.1", TTL: "5"}, {Door: "x", Client: "192.0.2.1"}} {
		if _, err := api.Open(ctx, bad); err == nil {
			t.Errorf("%+v was opened", bad)
		}
	}
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	var p *admin.Problem
	if err := api.Reload(ctx, admin.ReloadRequest{}); !errors.As(err, &p) || p.Status != http.StatusUnprocessableEntity || len(p.Errors) == 0 {
		t.Errorf("reload: %v", err)
	}
	stop()
	if _, err := os.Lstat(api.Socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// onMessage closes a channel when a message is logged.
type onMessage struct {
	prefix string
	seen   chan struct{}
}

func (onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (h onMessage) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h onMessage) WithGroup(string) slog.Handler          { return h }
func (h onMessage) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, h.prefix) {
		close(h.seen)
	}
	return nil
}
