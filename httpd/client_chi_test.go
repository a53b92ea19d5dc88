package httpd

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/go-chi/chi/v5/middleware"
)

// byChi returns whom chi's middleware takes for the client behind a trusted peer;
// the zero Addr: nobody.
func byChi(fields ...string) (client netip.Addr) {
	var prefixes []string
	for _, p := range proxies {
		prefixes = append(prefixes, p.String())
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "10.0.0.1:4711"
	r.Header["X-Forwarded-For"] = fields
	middleware.ClientIPFromXFF(prefixes...)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		client = middleware.GetClientIPAddr(r.Context())
	})).ServeHTTP(httptest.NewRecorder(), r)
	return client
}

// The cases of chi's own tests, and those in which this package differs from it.
func TestXForwardedForIsReadAsByChi(t *testing.T) {
	for _, tt := range []struct {
		fields    []string
		want, chi string // empty: nobody
	}{
		{nil, "", ""},
		{[]string{""}, "", ""},
		{[]string{"100.100.100.100"}, "100.100.100.100", "100.100.100.100"},
		{[]string{"1.1.1.1,2.2.2.2"}, "2.2.2.2", "2.2.2.2"},
		{[]string{"1.1.1.1", "2.2.2.2"}, "2.2.2.2", "2.2.2.2"},
		{[]string{"5.5.5.5, 6.6.6.6", "7.7.7.7, 4.4.4.4"}, "4.4.4.4", "4.4.4.4"},
		{[]string{"203.0.113.1, 2001:db8::1"}, "2001:db8::1", "2001:db8::1"},
		{[]string{"::ffff:1.2.3.4"}, "1.2.3.4", "1.2.3.4"},
		{[]string{"2001:db8::1%eth0"}, "2001:db8::1", "2001:db8::1"},
		{[]string{"10.0.0.10, 10.0.0.20"}, "", ""},
		{[]string{"8.8.8.8, 2001:db8:aaaa::1, 10.0.0.5"}, "8.8.8.8", "8.8.8.8"},
		{[]string{"192.168.1.50, 10.255.255.255"}, "192.168.1.50", "192.168.1.50"},
		{[]string{"11.0.0.0, 10.0.0.0"}, "11.0.0.0", "11.0.0.0"},
		{[]string{"127.0.0.1", "8.8.8.8, 10.0.0.1"}, "8.8.8.8", "8.8.8.8"},
		{[]string{"::ffff:10.0.0.5, 10.0.0.1"}, "", ""},
		{[]string{"2001:db8:aaaa::1%attacker, 2001:db8:aaaa::5"}, "", ""},
		{[]string{"1.1.1.1, garbage"}, "", ""},
		{[]string{"203.0.113.7, garbage, 10.0.0.1, 10.0.0.2"}, "", ""},
		{[]string{"garbage", "203.0.113.7, 10.0.0.1"}, "203.0.113.7", "203.0.113.7"},

		// Proxies write these; chi takes them for nobody.
		{[]string{"192.0.2.7:4711"}, "192.0.2.7", ""},
		{[]string{"[2001:db8::7]"}, "2001:db8::7", ""},
		{[]string{"[2001:db8::7]:4711"}, "2001:db8::7", ""},
		{[]string{`"[2001:db8::7]:4711"`}, "2001:db8::7", ""},
		{[]string{"192.0.2.7, 10.0.0.2:80"}, "192.0.2.7", ""},

		// Chi passes over an element without an address, and takes these addresses for a client.
		{[]string{"192.0.2.7,"}, "", "192.0.2.7"},
		{[]string{"oh, hi,,127.0.0.1,,,,"}, "", "127.0.0.1"},
		{[]string{"0.0.0.0"}, "", "0.0.0.0"},
		{[]string{"ff02::1"}, "", "ff02::1"},
	} {
		name := func(a netip.Addr) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}
		got, err := Clients{XForwardedFor, proxies}.client(netip.MustParseAddr("10.0.0.1"), http.Header{"X-Forwarded-For": tt.fields})
		if (err != nil) != (tt.want == "") || name(got) != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.fields, name(got), err, tt.want)
		}
		if chi := name(byChi(tt.fields...)); chi != tt.chi {
			t.Errorf("%q: chi says %q, not %q", tt.fields, chi, tt.chi)
		}
	}
}

// Where chi finds a client, this package finds the same one or nobody.
func FuzzXForwardedForAgreesWithChi(f *testing.F) {
	for _, field := range []string{"1.1.1.1, 192.0.2.7", "oh, hi,,127.0.0.1,,,,", "::ffff:10.0.0.5, 10.0.0.1", "192.0.2.7, 10.0.0.2:80", "0.0.0.0", "::1%a%b", "10.0.0.1\t,\v1.1.1.1"} {
		f.Add(field, "10.0.0.1")
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		chi := byChi(first, second)
		got, err := Clients{XForwardedFor, proxies}.client(netip.MustParseAddr("10.0.0.1"), http.Header{"X-Forwarded-For": {first, second}})
		if chi.IsValid() && err == nil && got != chi {
			t.Errorf("%q, %q: %s, by chi %s", first, second, got, chi)
		}
	})
}
