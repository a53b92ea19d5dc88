package front

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"webknock/internal/seam"
)

// certificates are those of a listener. The keeper replaces them when they change.
type certificates struct {
	byName bool // each is for the names that stand in it alone
	all    atomic.Pointer[[]*tls.Certificate]
}

func newCertificates(c *seam.TLS) (*certificates, error) {
	all := &certificates{byName: c.ACME}
	return all, all.use(c.Certificates)
}

// use replaces the certificates, or changes nothing if one of them cannot be used.
func (c *certificates) use(all []seam.Certificate) error {
	if !c.byName && len(all) == 0 {
		return errNoCertificate
	}
	parsed := make([]*tls.Certificate, len(all))
	for i, certificate := range all {
		pair, err := tls.X509KeyPair(certificate.Chain, certificate.Key)
		if err != nil {
			return err
		}
		parsed[i] = &pair
	}
	c.all.Store(&parsed)
	return nil
}

var errNoCertificate = errors.New("there is no certificate for this name")

// get returns the certificate for a handshake, for tls.Config: the first that the
// client can use or, if it can use none, the first.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	all := *c.all.Load()
	if !c.byName {
		return all[0], nil
	}
	name := strings.TrimSuffix(strings.ToLower(hello.ServerName), ".")
	var first *tls.Certificate
	for _, certificate := range all {
		if name == "" || !slices.Contains(certificate.Leaf.DNSNames, name) {
			continue
		}
		if hello.SupportsCertificate(certificate) == nil {
			return certificate, nil
		}
		if first == nil {
			first = certificate
		}
	}
	if first == nil {
		return nil, errNoCertificate
	}
	return first, nil
}

// UseCertificates implements seam.Front.
func (f *Front) UseCertificates(_ context.Context, address string, all []seam.Certificate) error {
	for _, l := range f.current.Load().listeners {
		if l.address == address && l.certificates != nil {
			return l.certificates.use(all)
		}
	}
	return fmt.Errorf("no listener with certificates has the address %s", address)
}
