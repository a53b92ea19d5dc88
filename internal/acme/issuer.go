package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// An issuer gets certificates from one authority. certmagic has one of its own,
// which would bind ports to answer challenges.
type issuer struct {
	client  *acmez.Client
	email   string
	storage certmagic.Storage
}

var (
	_ certmagic.Issuer            = (*issuer)(nil)
	_ certmagic.RenewalInfoGetter = (*issuer)(nil)
)

// requestTimeout bounds one request to an authority.
const requestTimeout = 30 * time.Second

// httpClient trusts the given roots, in PEM, or the system's if there are none.
func httpClient(roots []byte) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if len(roots) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(roots) {
			return nil, errors.New("no certificate in PEM among the roots to trust")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: transport, Timeout: requestTimeout}, nil
}

// IssuerKey implements certmagic.Issuer: the name of the authority in storage.
func (i *issuer) IssuerKey() string {
	return (&certmagic.ACMEIssuer{CA: i.client.Directory}).IssuerKey()
}

// Issue implements certmagic.Issuer.
func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	account, err := i.account(ctx)
	if err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	order, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return nil, err
	}
	chains, err := i.client.ObtainCertificate(ctx, order)
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, errors.New("the authority has sent no certificate")
	}
	return &certmagic.IssuedCertificate{Certificate: chains[0].ChainPEM, Metadata: chains[0]}, nil
}

// GetRenewalInfo implements certmagic.RenewalInfoGetter: when the authority
// wants to be asked for another one (RFC 9773).
func (i *issuer) GetRenewalInfo(ctx context.Context, c certmagic.Certificate) (acme.RenewalInfo, error) {
	return i.client.GetRenewalInfo(ctx, c.Leaf)
}

// account returns the account of the stored key. An authority that knows the key
// returns the account it has (RFC 8555, section 7.3.1), so that there is nothing
// else to remember.
func (i *issuer) account(ctx context.Context) (acme.Account, error) {
	key, err := i.key(ctx)
	if err != nil {
		return acme.Account{}, err
	}
	account := acme.Account{PrivateKey: key, TermsOfServiceAgreed: true}
	if i.email != "" {
		account.Contact = []string{"mailto:" + i.email}
	}
	return i.client.NewAccount(ctx, account)
}

// key returns the key of the account for this email address, made at its first
// use.
func (i *issuer) key(ctx context.Context) (crypto.Signer, error) {
	name := path.Join("accounts", i.IssuerKey(), certmagic.StorageKeys.Safe(i.email), "account.key")
	if err := i.storage.Lock(ctx, name); err != nil {
		return nil, err
	}
	defer i.storage.Unlock(context.WithoutCancel(ctx), name)
	stored, err := i.storage.Load(ctx, name)
	if err == nil {
		return certmagic.PEMDecodePrivateKey(stored)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := certmagic.PEMEncodePrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, i.storage.Store(ctx, name, text)
}
