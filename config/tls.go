package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"time"
)

// TLS is how a listener encrypts.
type TLS struct {
	// Certificate and Key are files in PEM. Either both are set, or ACME is.
	Certificate string   `mapstructure:"certificate" is:"certificate"`
	Key         string   `mapstructure:"key" is:"key"`
	ACME        *ACME    `mapstructure:"acme"`
	ServerNames []string `mapstructure:"server_names" is:"server name"` // as hostname.ASCII returns them; empty: any

	// Kept is the certificate to use in place of files that cannot be used any
	// more. Only Restore sets it.
	Kept *Pair `mapstructure:"-"`
	lost bool  // the files cannot be used, and Restore knows no other certificate
}

// A Pair is a certificate chain and its private key, both in PEM.
type Pair struct{ Chain, Key []byte }

// ACME is how certificates are obtained.
type ACME struct {
	Domains   []string `mapstructure:"domains" is:"domain" required:"at least one host name, like [home.example.org]"` // as hostname.ASCII returns them
	Email     string   `mapstructure:"email" is:"email"`                                                               // empty: none
	Directory string   `mapstructure:"directory" is:"directory"`                                                       // URL; empty: Let's Encrypt
	CAFile    string   `mapstructure:"ca" is:"file"`
	CA        []byte   `mapstructure:"-"` // content of CAFile: roots to trust for the directory, in PEM; empty: the system's
}

func (t *TLS) validate(d *decoder, key string) {
	there := d.keys[key]
	if t.ACME != nil {
		t.ACME.validate(d, key+".acme")
		if there.has("certificate", "key") {
			d.errorAt(key+".acme", "stands beside certificate or key (write either acme, or both of them)")
		}
		for i, name := range t.ServerNames {
			if !slices.Contains(t.ACME.Domains, name) && !d.wrong(key) {
				d.warnAt(fmt.Sprintf("%s.server_names[%d]", key, i), "%s is not among the domains of acme, so that there is no certificate for it", name)
			}
		}
		return
	}
	if there.misspelled["acme"] {
		return
	}
	n := d.place(key)
	d.need(n, key, there, "certificate", "a chain in PEM, or acme")
	d.need(n, key, there, "key", "the private key of the certificate, in PEM")
	switch {
	case t.Certificate == "" || t.Key == "":
	case d.kept != nil:
		d.keptCertificate(t, key)
	default:
		t.validateFiles(d, key)
	}
}

func (t *TLS) validateFiles(d *decoder, key string) {
	pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err != nil {
		d.errorAt(key+".certificate", "cannot be used: %v (a chain and its key, in PEM)", err)
		return
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		d.warnAt(key+".certificate", "is valid from %s to %s only, so that browsers refuse it now (renew it)", pair.Leaf.NotBefore.Format(time.DateOnly), pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	for i, name := range t.ServerNames {
		if pair.Leaf.VerifyHostname(name) != nil {
			d.warnAt(fmt.Sprintf("%s.server_names[%d]", key, i), "the certificate is not one for %s, so that browsers refuse it (a certificate that has the name, or leave it out)", name)
		}
	}
}

// validate contacts nobody.
func (a *ACME) validate(d *decoder, key string) {
	for i, domain := range a.Domains {
		if at := fmt.Sprintf("%s.domains[%d]", key, i); slices.Contains(a.Domains[:i], domain) && !d.wrong(at) {
			d.errorAt(at, "%q is there twice (remove one)", d.place(at).Value)
		}
	}
	if d.keys[key].at("domains") != nil && len(a.Domains) == 0 && !d.wrong(key+".domains") {
		d.errorAt(key+".domains", "is empty (at least one host name)")
	}
	if a.CAFile == "" {
		return
	}
	var err error
	if a.CA, err = os.ReadFile(a.CAFile); err != nil || !x509.NewCertPool().AppendCertsFromPEM(a.CA) {
		d.lackAt(key+".ca", "%s has no certificate (the roots to trust for the directory, in PEM)", a.CAFile)
	}
}
