package httpd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func TestThePROXYProtocolNamesTheClient(t *testing.T) {
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

// FuzzPROXYHeader has a proxy write anything before a request: it is never
// taken for the client itself, and without a header there is no client.
func FuzzPROXYHeader(f *testing.F) {
	source, destination := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	for _, version := range []byte{1, 2} {
		header, err := proxyproto.HeaderProxyFromAddrs(version, source, destination).Format()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(header)
	}
	for _, header := range []string{
		"", "PROXY UNKNOWN\r\n", "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", "PROXY TCP6 ::1 ::1 1 2\r\n", "PROXY TCP6 ::ffff:10.0.0.1 ::1 1 2\r\n",
		"PROXY TCP4 1.2.3.4", "PROXY TCP4 0.0.0.0 1.2.3.4 1 2\r\n", "PROXY TCP6 fe80::1%lo ::1 1 2\r\n", "PROXY TCP4 192.0.2.7 192.0.2.8 99999 2\r\n",
		"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x01\x00\x02",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + string(make([]byte, 216)), "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
	} {
		f.Add([]byte(header))
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	c := Clients{ProxyProtocol, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	s := &service{Options: Options{Clients: c}}
	f.Fuzz(func(t *testing.T, header []byte) {
		proxy, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
		if err != nil {
			t.Fatal(err)
		}
		defer proxy.Close()
		conn, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		proxy.SetLinger(0) // no port is left in TIME-WAIT
		go func() {
			proxy.SetWriteDeadline(time.Now().Add(HeadTimeout))
			proxy.Write(append(bytes.Clone(header), "GET / HTTP/1.1\r\nHost: h\r\n\r\n"...))
			proxy.CloseWrite()
		}()
		k, ok := s.read(conn, getBuffer())
		if !ok {
			return
		}
		client := k.Client
		if !bytes.HasPrefix(header, []byte("PROXY ")) && !bytes.HasPrefix(header, []byte("\r\n\r\n\x00\r\nQUIT\n")) {
			t.Errorf("without a header the client is %s", client)
		}
		if !client.IsValid() || client.Is4In6() || client.Zone() != "" || client.IsUnspecified() || client.IsMulticast() || c.trusts(client) {
			t.Errorf("%q: the client is %s", header, client)
		}
	})
}
