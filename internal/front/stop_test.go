package front

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"webknock/httpd"
	"webknock/internal/seam"
)

// fresh returns a front that has not been committed, and what its keeper is told.
func fresh(t *testing.T) (*Front, *told) {
	keeper := new(told)
	log := slog.New(slog.DiscardHandler)
	f := New(Options{Keeper: keeper, Log: log})
	t.Cleanup(func() { f.Stop(context.Background()) })
	return f, keeper
}

// at returns a configuration whose listener has an address with any port.
func at(t *testing.T, host, text string) seam.Configuration {
	t.Helper()
	cfg := parse(t, text)
	cfg.Listeners[0].Address = host + ":0"
	return cfg
}

// prepare binds the addresses of a configuration, has a front take the sockets, and
// closes its own.
func prepare(t *testing.T, f *Front, cfg seam.Configuration) (addresses []string, err error) {
	t.Helper()
	var sockets []seam.Socket
	for _, c := range cfg.Listeners {
		tcp, err := httpd.Bind(t.Context(), c.Address)
		if err != nil {
			t.Fatal(err)
		}
		file, err := tcp.File()
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, tcp.Addr().String())
		sockets = append(sockets, seam.Socket{Address: c.Address, File: file})
		tcp.Close()
		defer file.Close()
	}
	return addresses, f.Prepare(t.Context(), cfg, sockets)
}

// visit sends a request to a listener, which drops it.
func visit(t *testing.T, address, path string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
	io.Copy(io.Discard, conn)
}

// What was knocked before the end is carried out; afterwards nothing hangs.
func TestAStopReadsQueuedKnocksAndLaterCallsReturn(t *testing.T) {
	f, keeper := fresh(t)
	listeners, err := prepare(t, f, at(t, "127.0.0.1", file))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/a", "/b", "/c"} {
		visit(t, listeners[0], path)
	}
	if err := f.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if got := keeper.String(); got != "ssh" {
		t.Errorf("completed %q", got)
	}
	if err := errors.Join(f.Stop(t.Context()), f.Stop(t.Context())); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"ping": f.Ping(t.Context()), "commit": f.Commit(t.Context()), "clients": second(f.Clients(t.Context())), "prepare": second(prepare(t, f, at(t, "127.0.0.1", file))),
	} {
		if !errors.Is(err, seam.ErrStopped) {
			t.Errorf("%s after the stop: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A configuration that is prepared has no effect until it is committed, and none
// at all if it is aborted.
func TestAnAbortedConfigurationLeavesNothingBehind(t *testing.T) {
	f, keeper := fresh(t)
	listeners, err := prepare(t, f, at(t, "127.0.0.1", file))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := prepare(t, f, at(t, "127.0.0.2", strings.Replace(file, "[/a, /b, /c]", "[/x]", 1)))
	if err != nil {
		t.Fatal(err)
	}
	f.Abort()
	if conn, err := net.DialTimeout("tcp", other[0], time.Second); err == nil {
		conn.Close()
		t.Error("the address of an aborted configuration is still bound")
	}
	for _, path := range []string{"/x", "/a", "/b", "/c"} {
		visit(t, listeners[0], path)
	}
	if err := errors.Join(f.Drain(t.Context())); err != nil {
		t.Error(err)
	}
	if got := keeper.String(); got != "ssh" {
		t.Errorf("completed %q", got)
	}
}

// Under a cover that answers, a stop does not wait for answers that stream.
func TestAStopWaitsForNoAnswer(t *testing.T) {
	f, keeper := fresh(t)
	f.completions.add(completion{sequence: &parse(t, file).Sequences[0], knock: knockWithAnswer(make(chan struct{}))})
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if got := keeper.String(); got != "ssh" {
		t.Errorf("completed %q", got)
	}
}

func knockWithAnswer(answered <-chan struct{}) httpd.Knock { return httpd.Knock{Answered: answered} }
