// Package acme obtains the certificates of listeners, and renews them (RFC 8555).
// It binds no port: others answer its [Challenges], and serve its [Certificates].
package acme

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
)

// Options say what certificates are for, and who issues them.
type Options struct {
	Domains   []string // host names, in lower case; each gets a certificate
	Email     string   // where the authority may write to; empty: nowhere
	Directory string   // URL of the authority; empty: Let's Encrypt's production
	Roots     []byte   // trusted for the directory, in PEM; empty: the system's
	HTTP      bool     // HTTP-01 can be answered, beside TLS-ALPN-01
}

// Certificates are those of some domains, obtained and renewed while Run runs.
type Certificates struct {
	domains []string
	config  *certmagic.Config
	cache   *certmagic.Cache
	issuer  *issuer
	wake    chan struct{}
	log     *slog.Logger
}

// New returns the certificates that a directory of the file system, which it
// makes if necessary, holds already. Nobody is asked for any before Run.
func New(o Options, dir string, challenges *Challenges, log *slog.Logger) (*Certificates, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state of acme: %w (a directory that webknock may write to)", err)
	}
	client, err := httpClient(o.Roots)
	if err != nil {
		return nil, err
	}
	solvers := map[string]acmez.Solver{acme.ChallengeTypeTLSALPN01: challenges}
	if o.HTTP {
		solvers[acme.ChallengeTypeHTTP01] = challenges
	}
	c := &Certificates{domains: o.Domains, wake: make(chan struct{}, 1), log: log}
	c.issuer = &issuer{
		client: &acmez.Client{
			Client: &acme.Client{
				Directory:  cmp.Or(o.Directory, certmagic.LetsEncryptProductionCA),
				HTTPClient: client,
				UserAgent:  "webknock",
				Logger:     slog.New(zapslog.NewHandler(core{log: log}, zapslog.AddStacktraceAt(slog.Level(127)))),
			},
			ChallengeSolvers: solvers,
		},
		email:   o.Email,
		storage: &certmagic.FileStorage{Path: dir},
	}
	logger := zap.New(core{log: log})
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return c.config, nil },
		Logger:           logger,
	})
	c.config = certmagic.New(c.cache, certmagic.Config{
		Issuers: []certmagic.Issuer{c.issuer},
		Storage: c.issuer.storage,
		OCSP:    certmagic.OCSPConfig{DisableStapling: true}, // it would contact somebody whenever a certificate is loaded
		Logger:  logger,
	})
	for _, domain := range o.Domains {
		c.config.CacheManagedCertificate(context.Background(), domain) // what is wrong with one Run reports
	}
	return c, nil
}

// The time between two attempts to obtain what is missing doubles.
const (
	firstRetry = time.Minute
	lastRetry  = time.Hour
)

// Run obtains what is missing, without ever giving up, and renews what is due,
// until ctx is done. Then it closes.
func (c *Certificates) Run(ctx context.Context) {
	defer c.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.cache.RenewManagedCertificates(ctx) }) // now; later certmagic does it by itself
	for wait := firstRetry; !c.obtain(ctx, wait); {
		select {
		case <-time.After(wait):
			wait = min(2*wait, lastRetry)
		case <-c.wake:
			wait = firstRetry
		case <-ctx.Done():
			return
		}
	}
	<-ctx.Done()
}

// obtain tries to obtain what is missing, and reports whether all is there.
func (c *Certificates) obtain(ctx context.Context, retry time.Duration) (all bool) {
	for _, domain := range c.Missing() {
		err := c.config.ManageSync(ctx, []string{domain})
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			c.log.Error("no certificate yet; trying again in a while, or at once with webknock reload",
				"domain", domain, "after", retry.String(), "error", redact(err.Error()))
		}
	}
	return len(c.Missing()) == 0
}

// Retry has Run not wait for its next attempt.
func (c *Certificates) Retry() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Missing returns the domains that have no certificate yet.
func (c *Certificates) Missing() []string {
	return slices.DeleteFunc(slices.Clone(c.domains), func(domain string) bool { return len(c.cache.AllMatchingCertificates(domain)) > 0 })
}

// Close is for Certificates that do not run.
func (c *Certificates) Close() {
	c.cache.Stop()
	c.issuer.client.HTTPClient.CloseIdleConnections()
}

// PEM returns the certificates that there are, each as its chain and its key.
func (c *Certificates) PEM() (chains, keys [][]byte, err error) {
	for _, domain := range c.domains {
		for _, certificate := range c.cache.AllMatchingCertificates(domain) {
			chain, key, err := encode(&certificate.Certificate)
			if err != nil {
				return nil, nil, fmt.Errorf("the certificate for %s: %w", domain, err)
			}
			chains, keys = append(chains, chain), append(keys, key)
		}
	}
	return chains, keys, nil
}

// encode returns a certificate in PEM.
func encode(c *tls.Certificate) (chain, key []byte, err error) {
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}
