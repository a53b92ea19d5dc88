package httpd

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
	"webknock/internal/certtest"
)

func tlsOptions(t *testing.T, names, protocols []string) (o Options, dir string) {
	t.Helper()
	dir = t.TempDir()
	cert, key := certtest.SelfSigned(t, dir, "home.example.org")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
	return Options{TLS: TLSConfig(get, names, protocols)}, dir
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

func TestNothingIsSentAfterTheHandshake(t *testing.T) {
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
func TestTLSAnswersNothingAfterTheHandshake(t *testing.T) {
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

func TestARefusedHandshakeIsResetWithoutAnAlert(t *testing.T) {
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
