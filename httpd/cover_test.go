package httpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

// listenWith starts a listener with options on loopback.
func listenWith(t *testing.T, o Options) (*Listener, chan Knock) {
	t.Helper()
	knocks := make(chan Knock, 1024)
	o.Max, o.Post, o.Log = 100, func(l Knock) { knocks <- l }, slog.New(slog.DiscardHandler)
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

// selfSigned writes a certificate for a name, and its key.
func selfSigned(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func tlsOptions(t *testing.T, names, protocols []string) (o Options, dir string) {
	t.Helper()
	dir = t.TempDir()
	cert, key := selfSigned(t, dir, "home.example.org")
	c, err := LoadCertificate(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return Options{TLS: TLSConfig(c.Get, names, protocols)}, dir
}

// recorded keeps what comes in.
type recorded struct {
	net.Conn
	got bytes.Buffer
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.got.Write(p[:n])
	return n, err
}

func TestTLSIsFollowedByNotOneByte(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		o, _ := tlsOptions(t, nil, []string{"http/1.1"})
		l, knocks := listenWith(t, o)
		conn := &recorded{Conn: dial(t, l)}
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		handshake := conn.got.Len()
		if _, err := io.WriteString(client, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if k := <-knocks; !k.TLS {
			t.Error("the knock does not say that it came by TLS")
		}
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(client)
		// In TLS 1.2 the end of the handshake comes with the first read.
		if extra := conn.got.Len() - handshake; len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) || extra > 0 {
			t.Errorf("version %x: got %q, %v and %d bytes on the wire; want a reset", version, got, err, extra)
		}
	}
}

// As the answer to a KeyUpdate would be.
func TestWhatTLSWantsToSayAfterTheHandshakeIsNotSaid(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		o, _ := tlsOptions(t, nil, nil)
		ours, theirs := net.Pipe()
		said := make(chan []byte)
		go func() {
			client := tls.Client(theirs, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
			if err := client.Handshake(); err != nil {
				t.Error(err)
			}
			io.WriteString(client, "x")
			wire, _ := io.ReadAll(theirs)
			said <- wire
		}()
		secured, err := secure(ours, o.TLS)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(secured, "something")
		secured.CloseWrite()
		if n, err := secured.Read(make([]byte, 2)); n != 1 || err != nil {
			t.Errorf("version %x: read %d bytes, %v", version, n, err)
		}
		ours.Close()
		if wire := <-said; len(wire) > 0 {
			t.Errorf("version %x: %x on the wire", version, wire)
		}
	}
}

func TestTLSSaysNothingOfWhatItRefuses(t *testing.T) {
	o, _ := tlsOptions(t, []string{"home.example.org"}, []string{"http/1.1"})
	l, _ := listenWith(t, o)
	for name, config := range map[string]*tls.Config{
		"another name":   {ServerName: "other.example.org"},
		"no name":        {},
		"HTTP/2 alone":   {ServerName: "home.example.org", NextProtos: []string{"h2"}},
		"an old version": {ServerName: "home.example.org", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
	} {
		config.InsecureSkipVerify = true
		conn := &recorded{Conn: dial(t, l)}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		if err := tls.Client(conn, config).Handshake(); !errors.Is(err, syscall.ECONNRESET) || conn.got.Len() > 0 {
			t.Errorf("%s: %v, and the wire has %x", name, err, conn.got.Bytes())
		}
	}
	for name, sent := range map[string]string{"plain HTTP": "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "garbage": strings.Repeat("\xff", 1000)} {
		conn := dial(t, l)
		io.WriteString(conn, sent)
		t.Log(name)
		mustReset(t, conn)
	}
	conn := &recorded{Conn: dial(t, l)}
	if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "HOME.example.org"}).Handshake(); err != nil {
		t.Errorf("the right name: %v", err)
	}
}

func TestACertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir, "home.example.org")
	c, err := LoadCertificate(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() *big.Int {
		t.Helper()
		c.checked = time.Time{} // a second has passed
		got, err := c.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.SerialNumber
	}
	first := serial()
	if err := os.WriteFile(cert, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if serial().Cmp(first) != 0 {
		t.Error("a broken file has taken the certificate away")
	}
	selfSigned(t, dir, "home.example.org")
	if serial().Cmp(first) == 0 {
		t.Error("the new certificate is not served")
	}
	if _, err := LoadCertificate(key, key, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a key is no certificate")
	}
}

func TestAConstantResponse(t *testing.T) {
	l, knocks := listenWith(t, Options{Cover: Status{Code: 404, Body: []byte("nothing here\n"), Type: "text/plain"}})
	ask := func(method, path string) string {
		t.Helper()
		conn := dial(t, l)
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", method, path)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		head, body, _ := strings.Cut(string(got), "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		kept := lines[:0]
		for _, line := range lines {
			if !strings.HasPrefix(line, "Date: ") {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "\n") + "\n\n" + body
	}
	want := ask("GET", "/a")
	if !strings.HasPrefix(want, "HTTP/1.1 404 Not Found\n") || !strings.HasSuffix(want, "\n\nnothing here\n") {
		t.Errorf("got %q", want)
	}
	for _, path := range []string{"/b", "/zzz", "//", "/a/../b", "/%2f", "/?q"} {
		for _, method := range []string{"GET", "POST", "OPTIONS", "PROPFIND", "NONSENSE"} {
			if got := ask(method, path); got != want {
				t.Errorf("%s %s: %q, want %q", method, path, got, want)
			}
		}
	}
	if got := ask("OPTIONS", "*"); got != want {
		t.Errorf("OPTIONS *: %q", got)
	}
	if got := ask("HEAD", "/a"); got != strings.TrimSuffix(want, "nothing here\n") {
		t.Errorf("HEAD: %q", got)
	}
	if n := len(knocks); n != 33 {
		t.Errorf("%d knocks, want 33", n)
	}
	k := <-knocks
	r, err := k.Parse(bufio.NewReader(nil))
	if err != nil || r.Method != "GET" || r.URL.Path != "/a" || k.Client != netip.MustParseAddr("127.0.0.1") || !k.Local.IsValid() {
		t.Errorf("knock %+v, request %+v, %v", k, r, err)
	}
}

func TestTheRealSite(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upgrade" { // like a WebSocket
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			rw.Flush()
			line, _ := rw.ReadString('\n')
			rw.WriteString("echo " + line)
			rw.Flush()
			return
		}
		fmt.Fprintf(w, "%s %s for %s host %s by %s", r.Method, r.URL.Path, r.Header["X-Forwarded-For"], r.Host, r.Header.Get("X-Forwarded-Proto"))
	}))
	defer site.Close()
	address, err := url.Parse(site.URL)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := tlsOptions(t, nil, []string{"h2", "http/1.1"})
	o.Cover = Proxy{Site: address}
	l, knocks := listenWith(t, o)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	get := func(wantStatus int) (string, *http.Response) {
		t.Helper()
		req, err := http.NewRequest("GET", "https://"+l.Addr().String()+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "1.1.1.1") // a stranger's
		req.Host = "home.example.org"
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != wantStatus {
			t.Errorf("%s, %v", res.Status, err)
		}
		return string(body), res
	}
	body, res := get(200)
	if body != "GET /a for [127.0.0.1] host home.example.org by https" || res.ProtoMajor != 2 {
		t.Errorf("%s: %q", res.Proto, body)
	}
	if k := <-knocks; k.Client != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("knock %+v", k)
	}
	conn := tls.Client(dial(t, l), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	reader := bufio.NewReader(conn)
	if res, err := http.ReadResponse(reader, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", res, err)
	}
	io.WriteString(conn, "hello\n")
	if got, err := reader.ReadString('\n'); got != "echo hello\n" {
		t.Errorf("over the upgraded connection: %q, %v", got, err)
	}
	site.Close()
	if body, _ := get(502); body != "Bad Gateway\n" {
		t.Errorf("the site is down: %q", body)
	}
}

func TestThePROXYProtocol(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	source := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}
	covers := map[string]Cover{"drop": Drop{}, "status": Status{Code: 404}, "proxy": Proxy{Site: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}}
	for name, cover := range covers {
		for _, version := range []byte{1, 2} {
			t.Run(fmt.Sprintf("%s, version %d", name, version), func(t *testing.T) {
				l, knocks := listenWith(t, Options{Clients: Clients{ProxyProtocol, loopback}, Cover: cover})
				conn := dial(t, l)
				if _, err := proxyproto.HeaderProxyFromAddrs(version, source, conn.RemoteAddr()).WriteTo(conn); err != nil {
					t.Fatal(err)
				}
				io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n")
				k := <-knocks
				if k.Client != netip.MustParseAddr("192.0.2.7") || k.Remote.Port() != 4711 || !k.ViaProxy {
					t.Errorf("knock %+v", k)
				}
				// Without a header, or with a wrong one, there is no knock.
				for _, start := range []string{"", "PROXY TCP4 nonsense\r\n", "PROXY UNKNOWN\r\n",
					"PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\n", "PROXY TCP4 0.0.0.0 127.0.0.1 1 2\r\n"} {
					conn := dial(t, l)
					io.WriteString(conn, start+"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
					conn.SetReadDeadline(time.Now().Add(20 * time.Second))
					io.ReadAll(conn)
				}
				if len(knocks) > 0 {
					t.Errorf("knocks without a right header: %+v", <-knocks)
				}
			})
		}
	}
	for name, cover := range covers { // so that the firewall can be told of it
		l, knocks := listenWith(t, Options{Clients: Clients{ProxyProtocol, proxies}, Cover: cover})
		io.WriteString(dial(t, l), "GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
		if k := <-knocks; k.ViaProxy || k.Client != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%s: a client whom no proxy has named: %+v", name, k)
		}
	}
	t.Run("from others none is taken", func(t *testing.T) {
		l, knocks := listenWith(t, Options{Clients: Clients{ProxyProtocol, proxies}})
		conn := dial(t, l)
		io.WriteString(conn, "PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n")
		k := <-knocks
		if _, err := open(k); err == nil || k.Client != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("knock %+v, %v; want a malformed one of the peer's", k, err)
		}
	})
}

func TestOptionsChangeWithoutAnAnswerLost(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-release
		io.WriteString(w, "at last")
	}))
	defer site.Close()
	address, err := url.Parse(site.URL)
	if err != nil {
		t.Fatal(err)
	}
	l, knocks := listenWith(t, Options{Cover: Proxy{Site: address}})
	slow := dial(t, l)
	io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	<-knocks
	<-asked
	l.Use(Options{Max: 100, Post: func(l Knock) { knocks <- l }, Log: slog.New(slog.DiscardHandler)})
	dropped := dial(t, l)
	io.WriteString(dropped, "GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
	<-knocks
	mustReset(t, dropped)
	close(release)
	slow.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(slow); err != nil || !strings.HasSuffix(string(got), "at last") {
		t.Errorf("what was being answered: %q, %v", got, err)
	}
}

func TestASocketOfSomebodyElse(t *testing.T) {
	tcp, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	knocks := make(chan Knock, 1)
	l, err := ListenOn(tcp.(*net.TCPListener), Options{Max: 10, Post: func(l Knock) { knocks <- l }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	go l.Serve()
	defer l.Close()
	conn := dial(t, l)
	io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
	<-knocks
	mustReset(t, conn)
}

// What net/http would answer by itself gets the same response as everything.
func TestAConstantResponseForWhatIsNoRequest(t *testing.T) {
	l, knocks := listenWith(t, Options{Cover: Status{Code: 404, Body: []byte("nothing here\n"), Type: "text/plain"}})
	ask := func(sent string) string {
		t.Helper()
		conn := dial(t, l)
		go io.WriteString(conn, sent) // more than is read, perhaps
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Errorf("%.40q: %v", sent, err)
		}
		before, after, _ := strings.Cut(string(got), "Date: ")
		_, after, _ = strings.Cut(after, "\r\n")
		return before + after
	}
	want := ask("GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
	<-knocks
	for _, sent := range []string{
		"nonsense\r\n\r\n",
		"GET /a HTTP/1.1\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h/i\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
		"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /a HTTP/3.0\r\nHost: h\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"\x16\x03\x01\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\nX: \x00\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\n : \r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"POST /a HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
		"GET /a HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 3*MaxHead) + "\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 200) + "\r\n",
	} {
		if got := ask(sent); got != want {
			t.Errorf("%.60q gets %q, want %q", sent, got, want)
		}
		<-knocks
	}
	conn := dial(t, l)
	io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\n")
	conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(conn); len(got) > 0 || err != nil || len(knocks) > 0 {
		t.Errorf("a head that does not end gets %q, %v, and %d knocks", got, err, len(knocks))
	}
}

func TestPlainHTTPOnATLSPortIsNotTalkedTo(t *testing.T) {
	for name, cover := range map[string]Cover{"status": Status{Code: 404}, "proxy": Proxy{Site: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}} {
		o, _ := tlsOptions(t, nil, []string{"h2", "http/1.1"})
		o.Cover = cover
		l, knocks := listenWith(t, o)
		conn := dial(t, l)
		io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if got, _ := io.ReadAll(conn); bytes.Contains(got, []byte("HTTP")) || len(knocks) > 0 {
			t.Errorf("%s: %q, and %d knocks", name, got, len(knocks))
		}
	}
}

func TestAConstantResponseByHTTP2AndHTTP1OverTLS(t *testing.T) {
	o, _ := tlsOptions(t, nil, []string{"h2", "http/1.1"})
	o.Cover = Status{Code: 403, Body: []byte("no\n"), Type: "text/plain"}
	l, knocks := listenWith(t, o)
	for version, h2 := range map[int]bool{1: false, 2: true} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}}
		defer client.CloseIdleConnections()
		for _, path := range []string{"/a", "/other"} {
			res, err := client.Post("https://"+l.Addr().String()+path, "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.ProtoMajor != version || res.StatusCode != 403 || string(body) != "no\n" || res.Header.Get("Content-Type") != "text/plain" {
				t.Errorf("%s %s %q, %v", res.Proto, res.Status, body, err)
			}
			k := <-knocks
			if r, err := k.Parse(bufio.NewReader(nil)); err != nil || r.URL.Path != path || !k.TLS {
				t.Errorf("knock %+v, %v", k, err)
			}
		}
	}
}

// Slow heads under a cover that answers give way like those under one that
// drops.
func TestSlowClientsOfACoverGiveWay(t *testing.T) {
	for name, cover := range map[string]Cover{"status": Status{Code: 404}, "proxy": Proxy{Site: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}} {
		knocks := make(chan Knock, 10)
		l, err := Listen(t.Context(), "127.0.0.1:0", Options{Max: 2, Cover: cover, Post: func(l Knock) { knocks <- l }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		go l.Serve()
		defer l.Close()
		for range 5 {
			io.WriteString(dial(t, l), "GET / HTTP/1.1\r\n")
		}
		conn := dial(t, l)
		io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if got, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 ") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if l.Refused().Evicted.Load() < 3 {
			t.Errorf("%s: %d evicted", name, l.Refused().Evicted.Load())
		}
	}
}

// 0.0.0.0 is IPv4 alone, as with other programs.
func TestAnIPv4AddressTakesNoIPv6(t *testing.T) {
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
