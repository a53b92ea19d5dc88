package front

import (
	"crypto/tls"
	"testing"

	"webknock/internal/certtest"
	"webknock/internal/seam"
)

// selfSigned returns a certificate for names.
func selfSigned(t *testing.T, names ...string) seam.Certificate {
	t.Helper()
	cert, key := certtest.PEM(t, names...)
	return seam.Certificate{Chain: cert, Key: key}
}

func TestAHandshakeGetsTheCertificateForItsName(t *testing.T) {
	home, other := selfSigned(t, "home.example.org"), selfSigned(t, "other.example.org")
	served := func(c *certificates, name string) string {
		certificate, err := c.get(&tls.ClientHelloInfo{ServerName: name})
		if err != nil {
			return ""
		}
		return certificate.Leaf.DNSNames[0]
	}
	one, err := newCertificates(&seam.TLS{Certificates: []seam.Certificate{home}})
	if err != nil {
		t.Fatal(err)
	}
	obtained, err := newCertificates(&seam.TLS{ACME: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := served(obtained, "home.example.org"); got != "" {
		t.Errorf("before there is a certificate, %s is served", got)
	}
	if err := obtained.use([]seam.Certificate{home, other}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]string{
		"home.example.org":   {"home.example.org", "home.example.org"},
		"OTHER.example.org.": {"home.example.org", "other.example.org"},
		"third.example.org":  {"home.example.org", ""},
		"":                   {"home.example.org", ""},
	} {
		if got := [2]string{served(one, name), served(obtained, name)}; got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	bad := seam.Certificate{Chain: home.Chain, Key: other.Key}
	if one.use([]seam.Certificate{bad}) == nil || one.use(nil) == nil || obtained.use([]seam.Certificate{home, bad}) == nil {
		t.Error("a certificate that cannot be used is taken")
	}
	if served(one, "x") != "home.example.org" || served(obtained, "other.example.org") != "other.example.org" {
		t.Error("it has replaced those before")
	}
}
