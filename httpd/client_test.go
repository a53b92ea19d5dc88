package httpd

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:aaaa::/48")}

func TestTheClientIsWhomATrustedProxyNames(t *testing.T) {
	const proxy, stranger = "10.0.0.1", "192.0.2.66"
	for _, tt := range []struct {
		source Source
		peer   string
		fields string // name: value, by lines
		want   string // empty: nobody
	}{
		{Peer, proxy, "X-Forwarded-For: 192.0.2.7", proxy},
		{XForwardedFor, stranger, "X-Forwarded-For: 192.0.2.7", stranger},
		{XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.7", "192.0.2.7"},
		{XForwardedFor, proxy, "x-forwarded-for: 1.1.1.1, 192.0.2.7", "192.0.2.7"},
		{XForwardedFor, proxy, "X-Forwarded-For: 1.1.1.1, 192.0.2.7, 10.1.1.1 ,10.2.2.2", "192.0.2.7"},
		{XForwardedFor, proxy, "X-Forwarded-For: 1.1.1.1\nX-Forwarded-For: 192.0.2.7", "192.0.2.7"},
		{XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.7:4711", "192.0.2.7"},
		{XForwardedFor, proxy, "X-Forwarded-For: 2001:db8::7", "2001:db8::7"},
		{XForwardedFor, proxy, "X-Forwarded-For: [2001:db8::7]:4711", "2001:db8::7"},
		{XForwardedFor, proxy, "X-Forwarded-For: ::ffff:192.0.2.7", "192.0.2.7"},
		{XForwardedFor, "2001:db8:aaaa::1", "X-Forwarded-For: 192.0.2.7, 2001:db8:aaaa::2", "192.0.2.7"},
		{XForwardedFor, proxy, "X-Forwarded-For: 10.3.3.3", ""},
		{XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.7, unknown", ""},
		{XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.7,", ""},
		{XForwardedFor, proxy, "X-Forwarded-For: [2001:db8::7]", "2001:db8::7"},
		{XForwardedFor, proxy, "X-Forwarded-For: 1.1.1.1, [2001:db8::7] , [2001:db8:aaaa::2]", "2001:db8::7"},
		{XForwardedFor, proxy, "X-Forwarded-For: [::ffff:192.0.2.7]:4711", "192.0.2.7"},
		{XForwardedFor, proxy, `X-Forwarded-For: "[2001:db8::7]:4711"`, "2001:db8::7"},
		{XForwardedFor, proxy, `X-Forwarded-For: "192.0.2.7"`, "192.0.2.7"},
		{XForwardedFor, proxy, "X-Forwarded-For: fe80::7%eth0", "fe80::7"},
		{XForwardedFor, proxy, "X-Forwarded-For: [fe80::7%12]:4711", "fe80::7"},
		{XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.7, 2001:db8:aaaa::2%eth0", "192.0.2.7"},
		{XForwardedFor, proxy, "X-Forwarded-For: [2001:db8::7", ""},
		{XForwardedFor, proxy, "X-Forwarded-For: 2001:db8::7]", ""},
		{XForwardedFor, proxy, "X-Forwarded-For: [192.0.2.7]", ""},
		{XForwardedFor, proxy, "X-Forwarded-For: [2001:db8::7]x", ""},
		{XForwardedFor, proxy, "X-Forwarded-For: []", ""},
		{XForwardedFor, proxy, `X-Forwarded-For: "192.0.2.7`, ""},
		{XForwardedFor, proxy, `X-Forwarded-For: "`, ""},
		{XForwardedFor, proxy, "X-Forwarded-For: 0.0.0.0", ""},
		{XForwardedFor, proxy, "X-Forwarded-For:", ""},
		{XForwardedFor, proxy, "Forwarded: for=192.0.2.7", ""},
		{XForwardedFor, proxy, "", ""},
		{Forwarded, stranger, "Forwarded: for=192.0.2.7", stranger},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7", "192.0.2.7"},
		{Forwarded, proxy, "Forwarded: For=192.0.2.7;proto=https;by=10.0.0.1", "192.0.2.7"},
		{Forwarded, proxy, `Forwarded: proto=https;for="192.0.2.7:4711"`, "192.0.2.7"},
		{Forwarded, proxy, `Forwarded: for="[2001:db8::7]"`, "2001:db8::7"},
		{Forwarded, proxy, `Forwarded: for="[2001:db8::7]:4711";host=h`, "2001:db8::7"},
		{Forwarded, proxy, `Forwarded: for=1.1.1.1, for=192.0.2.7, for=10.9.9.9`, "192.0.2.7"},
		{Forwarded, proxy, "Forwarded: for=1.1.1.1\nForwarded: for=192.0.2.7", "192.0.2.7"},
		{Forwarded, proxy, `Forwarded: for="a, for=1.1.1.1", for=192.0.2.7`, "192.0.2.7"},
		{Forwarded, proxy, `Forwarded: for=192.0.2.7, for="_hidden"`, ""},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7, for=unknown", ""},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7, proto=https", ""},
		{Forwarded, proxy, `Forwarded: for="2001:db8::7"`, ""},
		{Forwarded, proxy, "Forwarded: for=[2001:db8::7]", "2001:db8::7"},
		{Forwarded, proxy, "Forwarded: for=[2001:db8::7]:4711;proto=http", "2001:db8::7"},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7:4711", "192.0.2.7"},
		{Forwarded, proxy, `Forwarded: for="[fe80::7%eth0]:4711"`, "fe80::7"},
		{Forwarded, proxy, `Forwarded: for="[2001:db8::7]:_port"`, "2001:db8::7"},
		{Forwarded, proxy, `Forwarded: for="192.0.2.7`, ""},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7;for=1.1.1.1", ""},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7 x", ""},
		{Forwarded, proxy, "Forwarded: nonsense", ""},
		{XRealIP, stranger, "X-Real-IP: 192.0.2.7", stranger},
		{XRealIP, proxy, "X-Real-IP: 192.0.2.7", "192.0.2.7"},
		{XRealIP, proxy, "X-Real-IP: [2001:db8::7]", "2001:db8::7"},
		{XRealIP, proxy, "X-Real-IP: 192.0.2.7:4711", "192.0.2.7"},
		{XRealIP, proxy, "X-Real-IP: fe80::7%eth0", "fe80::7"},
		{XRealIP, proxy, "X-Real-IP: [10.0.0.1]", ""},
		{XRealIP, proxy, "X-Real-IP: [2001:db8:aaaa::2]", ""},
		{XRealIP, proxy, "X-Real-IP: 192.0.2.7\nX-Real-IP: 1.1.1.1", ""},
		{XRealIP, proxy, "X-Real-IP: 192.0.2.7, 1.1.1.1", ""},
		{XRealIP, proxy, "X-Real-IP: 10.0.0.1", ""},
		{XRealIP, proxy, "X-Real-IP: ::ffff:10.2.2.2", ""},
		{XRealIP, proxy, "", ""},
	} {
		c := Clients{tt.source, proxies}
		head := "GET / HTTP/1.1\r\n" + strings.ReplaceAll(tt.fields, "\n", "\r\n") + "\r\n\r\n"
		got, err := c.client(netip.MustParseAddr(tt.peer), clientFields([]byte(head)))
		if tt.want == "" {
			if err == nil {
				t.Errorf("%s of %s with %q: %s, want nobody", tt.source, tt.peer, tt.fields, got)
			}
			continue
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("%s of %s with %q: %s, %v; want %s", tt.source, tt.peer, tt.fields, got, err, tt.want)
		}
	}
}

// Whatever a stranger has put before, what our proxy appends decides.
func FuzzForwardedFor(f *testing.F) {
	f.Add("1.1.1.1")
	f.Add(`for="a`)
	f.Add(`,`)
	f.Add("10.0.0.1, for=10.0.0.2")
	f.Fuzz(func(t *testing.T, written string) {
		for _, tt := range []struct {
			source Source
			name   string
			adds   string
		}{{XForwardedFor, "X-Forwarded-For", "192.0.2.7"}, {Forwarded, "Forwarded", "for=192.0.2.7"}} {
			c := Clients{tt.source, proxies}
			got, err := c.client(netip.MustParseAddr("10.0.0.1"), http.Header{tt.name: {written + ", " + tt.adds}})
			if err == nil && got != netip.MustParseAddr("192.0.2.7") {
				t.Errorf("%s: a stranger who writes %q is taken for %s", tt.source, written, got)
			}
			if tt.source == XForwardedFor && err != nil {
				t.Errorf("a stranger who writes %q is taken for nobody", written)
			}
		}
	})
}

// Whatever a proxy's head looks like, no proxy is ever taken for the client.
func FuzzClientFields(f *testing.F) {
	for _, fields := range []string{"X-Forwarded-For: 192.0.2.7", "Forwarded: for=\"[2001:db8::7]:4711\";by=x", "X-Real-IP: 10.0.0.1", "x-real-ip:::1",
		"X-Forwarded-For: a\r\n 192.0.2.7", "Forwarded: for=\"\\1\"", "X-Forwarded-For: ::ffff:10.0.0.1", "X-Forwarded-For: 10.0.0.1:80"} {
		f.Add([]byte("GET / HTTP/1.1\r\n" + fields + "\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		for _, source := range []Source{XForwardedFor, Forwarded, XRealIP} {
			c := Clients{source, proxies}
			got, err := c.client(netip.MustParseAddr("10.0.0.1"), clientFields(head))
			if err == nil && (!nameable(got) || got.Is4In6() || got.Zone() != "" || c.trusts(got)) {
				t.Errorf("%s: %q names %s", source, head, got)
			}
			if got, err := c.client(testClient, clientFields(head)); err != nil || got != testClient {
				t.Errorf("%s: a stranger who writes %q is %s, %v", source, head, got, err)
			}
		}
	})
}

func TestTheSchemeIsTheClientsAsATrustedProxySays(t *testing.T) {
	const proxy, stranger = "10.0.0.1", "192.0.2.66"
	for _, tt := range []struct {
		source Source
		peer   string
		fields string // name: value, by lines
		want   string
	}{
		{Peer, proxy, "X-Forwarded-Proto: https", ""},
		{ProxyProtocol, proxy, "X-Forwarded-Proto: https", ""},
		{XForwardedFor, stranger, "X-Forwarded-Proto: https", ""},
		{XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.7", ""},
		{XForwardedFor, proxy, "X-Forwarded-Proto: https", "https"},
		{XForwardedFor, proxy, "x-forwarded-proto: HTTPS ", "https"},
		{XForwardedFor, proxy, "X-Forwarded-Proto: http", "http"},
		{XForwardedFor, proxy, "X-Forwarded-Proto: https, https", "https"},
		{XForwardedFor, proxy, "X-Forwarded-Proto: https, http", unknownScheme},
		{XForwardedFor, proxy, "X-Forwarded-Proto: http\nX-Forwarded-Proto: https", unknownScheme},
		{XForwardedFor, proxy, "X-Forwarded-Proto: gopher", unknownScheme},
		{XForwardedFor, proxy, "X-Forwarded-Proto:", unknownScheme},
		{XForwardedFor, proxy, "Forwarded: for=192.0.2.7;proto=https", ""},
		{XRealIP, proxy, "X-Forwarded-Proto: https", "https"},
		{Forwarded, stranger, "Forwarded: for=192.0.2.7;proto=https", ""},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7", ""},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7;proto=https", "https"},
		{Forwarded, proxy, `Forwarded: Proto="HTTPS";for=192.0.2.7`, "https"},
		{Forwarded, proxy, "Forwarded: for=1.1.1.1;proto=https, for=192.0.2.7;proto=http, for=10.9.9.9;proto=https", "http"},
		{Forwarded, proxy, "Forwarded: for=1.1.1.1;proto=https, for=192.0.2.7, for=10.9.9.9;proto=https", ""},
		{Forwarded, proxy, "Forwarded: for=192.0.2.7;proto=https;proto=http", unknownScheme},
		{Forwarded, proxy, "X-Forwarded-Proto: https", ""},
	} {
		var head strings.Builder
		head.WriteString("GET / HTTP/1.1\r\n")
		for _, line := range strings.Split(tt.fields, "\n") {
			head.WriteString(line + "\r\n")
		}
		c := Clients{Source: tt.source, Proxies: proxies}
		if got := c.scheme(netip.MustParseAddr(tt.peer), clientFields([]byte(head.String()+"\r\n"))); got != tt.want {
			t.Errorf("%s from %s, %q: scheme %q, want %q", tt.source, tt.peer, tt.fields, got, tt.want)
		}
	}
}

func TestAKnockWithoutAProxyHasTheListenersScheme(t *testing.T) {
	for want, l := range map[string]Knock{"http": {}, "https": {TLS: true}, "unknown": {TLS: true, ProxyScheme: unknownScheme}} {
		if got := l.Scheme(); got != want {
			t.Errorf("%+v: %s, want %s", l, got, want)
		}
	}
}
