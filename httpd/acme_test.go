package httpd

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

const (
	challengeHead   = "GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: home.example.org\r\n\r\n"
	challengeAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nkey"
)

// onlyThe answers one challenge.
func onlyThe(head []byte) []byte {
	if string(head) == challengeHead {
		return []byte(challengeAnswer)
	}
	return nil
}

func TestAChallengeIsAnsweredAndIsNoKnock(t *testing.T) {
	proxies := Clients{Source: ProxyProtocol, Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	for name, tt := range map[string]struct {
		options Options
		before  string
	}{
		"drop":                    {options: Options{}},
		"drop behind a proxy":     {options: Options{Clients: proxies}, before: "PROXY TCP4 192.0.2.7 192.0.2.1 1000 80\r\n"},
		"a client that is hidden": {options: Options{Clients: Clients{Source: XForwardedFor, Proxies: proxies.Proxies}}},
		"status":                  {options: Options{Cover: Status{Code: 404}}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.options.Challenge = onlyThe
			l, knocks := listenWith(t, tt.options)
			conn := dial(t, l)
			io.WriteString(conn, tt.before+challengeHead)
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			if got, err := io.ReadAll(conn); string(got) != challengeAnswer || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			conn = dial(t, l)
			other := "GET /.well-known/acme-challenge/other HTTP/1.1\r\nHost: home.example.org\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
			io.WriteString(conn, tt.before+other)
			if tt.options.Drops() {
				mustReset(t, conn)
			}
			k := <-knocks // the first there is
			if r, err := open(k); err != nil || r.URL.Path != "/.well-known/acme-challenge/other" {
				t.Errorf("the knock is %+v, %v", r, err)
			}
		})
	}
}

// handshake returns what a client sees of a handshake, and of a request after
// it.
func handshake(t *testing.T, l *Listener, config *tls.Config) (state tls.ConnectionState, wire *bytes.Buffer, err error) {
	t.Helper()
	config.InsecureSkipVerify = true
	conn := &recorded{Conn: dial(t, l)}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	client := tls.Client(conn, config)
	if err = client.Handshake(); err == nil {
		io.WriteString(client, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
		if got, _ := io.ReadAll(client); len(got) > 0 {
			t.Errorf("got %q after the handshake", got)
		}
	}
	return client.ConnectionState(), &conn.got, err
}

func TestAHandshakeAnswersAPendingChallenge(t *testing.T) {
	certificate, _ := tlsOptions(t, nil, nil)
	challenge, err := certificate.TLS.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for name, cover := range map[string]Cover{"drop": Drop{}, "status": Status{Code: 404}} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			protocols := []string{"http/1.1"}
			if name != "drop" {
				protocols = []string{"h2", "http/1.1"}
			}
			// No name is served, and there is no certificate yet.
			o := Options{Cover: cover, TLS: TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }, []string{"none.example.org"}, protocols)}
			AnswerTLSALPN(o.TLS, func(name string) *tls.Certificate {
				if name != "home.example.org" {
					return nil
				}
				return challenge
			})
			l, knocks := listenWith(t, o)
			state, _, err := handshake(t, l, &tls.Config{ServerName: "Home.example.org", NextProtos: []string{"acme-tls/1"}, MinVersion: version, MaxVersion: version})
			if err != nil || state.NegotiatedProtocol != "acme-tls/1" || !bytes.Equal(state.PeerCertificates[0].Raw, challenge.Certificate[0]) {
				t.Errorf("%s, version %x: the challenge: %v, %q", name, version, err, state.NegotiatedProtocol)
			}
			for what, config := range map[string]*tls.Config{
				"another name":     {ServerName: "other.example.org", NextProtos: []string{"acme-tls/1"}},
				"two protocols":    {ServerName: "home.example.org", NextProtos: []string{"acme-tls/1", "http/1.1"}},
				"a request":        {ServerName: "home.example.org", NextProtos: []string{"http/1.1"}},
				"no certificate":   {ServerName: "none.example.org"},
				"no name, no ALPN": {},
			} {
				config.MinVersion, config.MaxVersion = version, version
				if _, wire, err := handshake(t, l, config); !errors.Is(err, syscall.ECONNRESET) || wire.Len() > 0 {
					t.Errorf("%s, version %x, %s: %v, and the wire has %x", name, version, what, err, wire.Bytes())
				}
			}
			select {
			case k := <-knocks:
				t.Errorf("%s, version %x: a challenge was a knock: %+v", name, version, k)
			default:
			}
		}
	}
}

func TestARefusedHandshakeBehindAProxyIsReset(t *testing.T) {
	o, _ := tlsOptions(t, []string{"home.example.org"}, nil)
	o.Cover = Status{Code: 404}
	o.Clients = Clients{Source: ProxyProtocol, Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	l, _ := listenWith(t, o)
	conn := dial(t, l)
	io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.1 1000 443\r\n")
	got := &recorded{Conn: conn}
	if err := tls.Client(net.Conn(got), &tls.Config{ServerName: "other.example.org"}).Handshake(); !errors.Is(err, syscall.ECONNRESET) || got.got.Len() > 0 {
		t.Errorf("%v, and the wire has %x", err, got.got.Bytes())
	}
}
