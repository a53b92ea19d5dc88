package httpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// listenWith starts a listener with options on loopback.
func listenWith(t *testing.T, o Options) (*Listener, chan Knock) {
	t.Helper()
	knocks := make(chan Knock, 1024)
	o.Max, o.Post, o.Log = 100, func(k Knock) { knocks <- k }, slog.New(slog.DiscardHandler)
	l, err := Listen(t.Context(), "127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(l.Serve)
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l, knocks
}

func TestAListenerServesASocketBoundElsewhere(t *testing.T) {
	tcp, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	knocks := make(chan Knock, 1)
	if err := Prepare(tcp.(*net.TCPListener)); err != nil {
		t.Fatal(err)
	}
	l := Receive(tcp.(*net.TCPListener), Options{Max: 10, Post: func(k Knock) { knocks <- k }, Log: slog.New(slog.DiscardHandler)})
	go l.Serve()
	defer l.Close()
	conn := dial(t, l)
	io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
	<-knocks
	mustReset(t, conn)
}

// listen starts a listener on loopback. Its knocks come out of the channel.
func listen(t testing.TB, max int) (*Listener, chan Knock) {
	t.Helper()
	knocks := make(chan Knock, 1024)
	l, err := Listen(t.Context(), "127.0.0.1:0", Options{Max: max, Post: func(k Knock) { knocks <- k }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(l.Serve)
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l, knocks
}

func dial(t testing.TB, l *Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// mustReset reads until the connection ends, and fails unless it ends with a
// reset and without a byte.
func mustReset(t testing.TB, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	got, err := io.ReadAll(conn)
	if len(got) > 0 {
		t.Errorf("the listener sent %q", got)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
}

// open reads a knock the way a shard does.
func open(k Knock) (*http.Request, error) { return k.Parse(bufio.NewReaderSize(nil, MaxHead)) }

func TestEveryHeadIsPostedAndItsConnectionReset(t *testing.T) {
	large := "X: " + strings.Repeat("x", 1000) + "\r\n"
	byTLS, _ := tlsOptions(t, nil, nil)
	ways := map[string]Options{"by a loop": {}, "by a goroutine": {Clients: Clients{Source: ProxyProtocol}}, "by TLS": byTLS}
	for _, tt := range []struct {
		name string
		sent string
		want string // method, host and decoded path; empty: malformed
	}{
		{"a request", "GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /a"},
		{"HEAD", "HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD h /a"},
		{"a made-up method", "BREW /a HTTP/1.1\r\nHost: h\r\n\r\n", "BREW h /a"},
		{"a body", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", "POST h /a"},
		{"a pipelined request", "GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /a"},
		{"bare LF", "GET /a HTTP/1.1\nHost: h\n\n", "GET h /a"},
		{"HTTP/1.0 without Host", "GET /a HTTP/1.0\r\n\r\n", "GET  /a"},
		{"a query", "GET /a?k=v HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /a"},
		{"an absolute target", "GET http://other/a HTTP/1.1\r\nHost: h\r\n\r\n", "GET other /a"},
		{"percent-encoding, decoded once", "GET /%61%2561%2f HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /a%61/"},
		{"no cleaning", "GET //x/../a HTTP/1.1\r\nHost: h\r\n\r\n", "GET h //x/../a"},
		{"a zero byte, encoded", "GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /\x00"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS h *"},
		{"CONNECT", "CONNECT h:22 HTTP/1.1\r\nHost: h\r\n\r\n", "CONNECT h:22 "},
		{"Expect", "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", "POST h /a"},
		{"the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""},
		{"HTTP/1.1 without Host", "GET /a HTTP/1.1\r\n\r\n", ""},
		{"two Host fields", "GET /a HTTP/1.1\r\nHost: h\r\nhost: i\r\n\r\n", ""},
		{"HTTP/0.9", "GET /a\r\n\r\n", ""},
		{"garbage with an empty line", "\x16\x03\x01\x02\n\n", ""},
		{"only an empty line", "\r\n\r\n", ""},
		{"a bad escape", "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", ""},
		{"a NUL", "GET /a HTTP/1.1\r\nHost: h\r\nX: \x00\r\n\r\n", ""},
		{"a bare CR", "GET /a HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", ""},
		{"a header without a colon", "GET /a HTTP/1.1\r\nHost: h\r\nnonsense\r\n\r\n", ""},
		{"7 KiB of head", "GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat(large, 7) + "\r\n", "GET h /a"},
		{"64 KiB of head", "GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat(large, 64) + "\r\n", ""},
		{"64 KiB without a line's end", strings.Repeat("x", 64<<10), ""},
		{"101 lines", "GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 98) + "\r\n", ""},
		{"100 lines", "GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 97) + "\r\n", "GET h /a"},
	} {
		for way, options := range ways {
			t.Run(tt.name+", "+way, func(t *testing.T) {
				l, knocks := listenWith(t, options)
				conn := dial(t, l)
				if options.TLS != nil {
					conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				}
				sent := make(chan error)
				go func() {
					half := len(tt.sent) / 2
					_, first := io.WriteString(conn, tt.sent[:half])
					_, second := io.WriteString(conn, tt.sent[half:])
					sent <- errors.Join(first, second)
				}()
				conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				got, err := io.ReadAll(conn)
				// The kernel tells of the reset once, the writer or the reader.
				if err := errors.Join(err, <-sent); len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%q came, and the connection ended with %v, want a reset", got, err)
				}
				k := <-knocks
				if k.Remote.String() != conn.LocalAddr().String() || k.Local != l.Addr() || k.Client != k.Remote.Addr() || k.TLS != (options.TLS != nil) {
					t.Errorf("knock from %v (%v) to %v, by TLS: %v", k.Remote, k.Client, k.Local, k.TLS)
				}
				req, err := open(k)
				switch {
				case err != nil && tt.want != "":
					t.Errorf("malformed: %v", err)
				case err == nil && tt.want != fmt.Sprintf("%s %s %s", req.Method, req.Host, req.URL.Path):
					t.Errorf("got %q %q %q, want %q", req.Method, req.Host, req.URL.Path, tt.want)
				}
			})
		}
	}
}

func TestAKnockIsPostedBeforeTheReset(t *testing.T) {
	l, knocks := listen(t, 16)
	for i := range 50 {
		conn := dial(t, l)
		fmt.Fprintf(conn, "GET /%d HTTP/1.0\r\n\r\n", i)
		mustReset(t, conn)
		select {
		case k := <-knocks:
			if req, err := open(k); err != nil || req.URL.Path != fmt.Sprint("/", i) {
				t.Fatalf("knock %d: %v, %v", i, req, err)
			}
		default:
			t.Fatal("the connection was reset before its knock was there")
		}
	}
}

func TestAnUnfinishedHeadIsNoKnock(t *testing.T) {
	for _, sent := range []string{"", "GET /a HTTP/1.1\r\nHost: h\r\n"} {
		l, knocks := listen(t, 16)
		conn := dial(t, l)
		io.WriteString(conn, sent)
		conn.(*net.TCPConn).CloseWrite()
		mustReset(t, conn)
		if len(knocks) > 0 {
			t.Errorf("%q made a knock", sent)
		}
	}
}

func TestASlowHeadIsReset(t *testing.T) {
	l, knocks := listen(t, 16)
	conn := dial(t, l)
	io.WriteString(conn, "GET /a HTTP/1.1\r\n")
	mustReset(t, conn) // after HeadTimeout
	if len(knocks) > 0 {
		t.Error("a head that never ends made a knock")
	}
	if n := l.Refused().TooSlow.Load(); n != 1 {
		t.Errorf("%d too slow", n)
	}
}

func TestAHeadMayComeInPieces(t *testing.T) {
	l, knocks := listen(t, 16)
	conn := dial(t, l)
	head := "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
	go func() {
		for i := range head {
			conn.Write([]byte{head[i]})
		}
	}()
	mustReset(t, conn)
	if req, err := open(<-knocks); err != nil || req.URL.Path != "/a" {
		t.Errorf("%v, %v", req, err)
	}
}

func TestSlowClientsGiveWayToNewOnes(t *testing.T) {
	l, knocks := listen(t, 4)
	var slow []net.Conn
	for range 8 {
		conn := dial(t, l)
		io.WriteString(conn, "GET / HTTP/1.1\r\n")
		slow = append(slow, conn)
	}
	conn := dial(t, l)
	io.WriteString(conn, "GET /a HTTP/1.0\r\n\r\n")
	mustReset(t, conn)
	if req, err := open(<-knocks); err != nil || req.URL.Path != "/a" {
		t.Errorf("%v, %v", req, err)
	}
	for _, oldest := range slow[:4] {
		mustReset(t, oldest)
	}
	if got := l.Refused().Evicted.Load(); got != 4 && got != 5 { // the last head was whole when it was accepted, or soon after
		t.Errorf("%d connections evicted, want 4 or 5", got)
	}
}

// A head that exceeds a bound is counted by its kind, by each kind of reader.
func TestRefusedHeadsAreCounted(t *testing.T) {
	byTLS, _ := tlsOptions(t, nil, nil)
	for way, options := range map[string]Options{
		"by a loop": {}, "by a goroutine": {Clients: Clients{Source: ProxyProtocol}}, "by TLS": byTLS, "answered": {Cover: Status{Code: 404}},
	} {
		t.Run(way, func(t *testing.T) {
			l, knocks := listenWith(t, options)
			for _, head := range []string{
				"GET /a HTTP/1.1\r\nHost: h\r\nCookie: " + strings.Repeat("x", MaxHead) + "\r\n\r\n",
				"GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 98) + "\r\n",
				"GET /a HTTP/1.1\nHost: h\n" + strings.Repeat("X:\n", 98) + "\n",
				"GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 97) + "\r\n",
				"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
			} {
				conn := dial(t, l)
				if options.TLS != nil {
					conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				}
				go io.WriteString(conn, head)
				<-knocks
			}
			r := l.Refused()
			if large, lines := r.TooLarge.Load(), r.TooManyLines.Load(); large != 1 || lines != 2 {
				t.Errorf("%d too large, %d of too many lines; want 1 and 2", large, lines)
			}
			if n := r.Evicted.Load() + r.Starved.Load() + r.TooSlow.Load(); n != 0 {
				t.Errorf("%d of other kinds", n)
			}
		})
	}
}

func TestCloseResetsPendingConnections(t *testing.T) {
	l, _ := listen(t, 16)
	conn := dial(t, l)
	// One byte: many would become a head that is too large, and be reset for that.
	if _, err := conn.Write([]byte("G")); err != nil {
		t.Fatal(err)
	}
	for l.pending.Len() == 0 { // not yet accepted
		runtime.Gosched()
	}
	l.Close()
	mustReset(t, conn)
	if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("a closed listener accepts")
	}
}

func TestFailuresToAcceptAreLoggedRarely(t *testing.T) {
	var out bytes.Buffer
	l, err := Listen(t.Context(), "127.0.0.1:0", Options{Log: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	synctest.Test(t, func(*testing.T) {
		for range 10 { // connections that fail and succeed by turns
			l.cannotAccept(syscall.EMFILE)
			l.accepted()
		}
		time.Sleep(failureInterval)
		l.cannotAccept(syscall.EMFILE)
	})
	if text := out.String(); strings.Count(text, "cannot accept") != 2 || strings.Count(text, "accepting connections again") != 1 {
		t.Errorf("logged:\n%s", text)
	}
}

func TestAListenErrorNamesTheAddress(t *testing.T) {
	l, _ := listen(t, 1)
	_, err := Listen(context.Background(), l.Addr().String(), Options{})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("listen on an address in use: %v", err)
	}
}

func TestASlowHeadIsCountedInEachReader(t *testing.T) {
	byTLS, _ := tlsOptions(t, nil, nil)
	for way, options := range map[string]Options{
		"by a goroutine": {Clients: Clients{Source: ProxyProtocol}}, "by TLS": byTLS, "answered": {Cover: Status{Code: 404}},
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel() // HeadTimeout each
			l, _ := listenWith(t, options)
			conn := dial(t, l)
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			if options.TLS == nil {
				io.WriteString(conn, "GET /a HTTP/1.1\r\n")
			}
			io.ReadAll(conn)
			if n := l.Refused().TooSlow.Load(); n != 1 {
				t.Errorf("%d too slow", n)
			}
		})
	}
}

// 0.0.0.0 is IPv4 alone, as with other programs.
func TestAnIPv4ListenerTakesNoIPv6(t *testing.T) {
	l, err := Listen(t.Context(), "0.0.0.0:0", Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if conn, err := net.Dial("tcp", fmt.Sprintf("[::1]:%d", l.Addr().Port())); err == nil {
		conn.Close()
		t.Error("it takes IPv6")
	}
}
