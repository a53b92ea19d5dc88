package keeper

import (
	"bytes"
	"log/slog"
	"os"
	"testing"

	"webknock/config"
	"webknock/internal/certtest"
)

func TestAChangedCertificateIsLoadedAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := certtest.SelfSigned(t, dir, "home.example.org")
	k := &Keeper{log: slog.New(slog.DiscardHandler)}
	c, err := k.newCertificates(nil, &config.TLS{Certificate: cert, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := c.current[0].Chain
	if c.changed() {
		t.Error("changed though nobody has touched it")
	}
	if err := os.WriteFile(cert, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.changed() || !bytes.Equal(c.current[0].Chain, first) {
		t.Error("a broken file has taken the certificate away")
	}
	certtest.SelfSigned(t, dir, "home.example.org")
	if !c.changed() || bytes.Equal(c.current[0].Chain, first) {
		t.Error("the new certificate is not served")
	}
	if _, err := k.newCertificates(nil, &config.TLS{Certificate: key, Key: key}, nil); err == nil {
		t.Error("a key is no certificate")
	}
}
