package keeper

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"webknock/config"
)

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

func TestAChangedCertificateIsLoadedAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir, "home.example.org")
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
	selfSigned(t, dir, "home.example.org")
	if !c.changed() || bytes.Equal(c.current[0].Chain, first) {
		t.Error("the new certificate is not served")
	}
	if _, err := k.newCertificates(nil, &config.TLS{Certificate: key, Key: key}, nil); err == nil {
		t.Error("a key is no certificate")
	}
}
