package keeper

import (
	"context"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"webknock/config"
	"webknock/internal/acme"
	"webknock/internal/seam"
)

// A certificateManager obtains the certificates of listeners by ACME. Listeners
// that want the same ones share one.
type certificateManager struct {
	certificates *acme.Certificates
	options      acme.Options
	cancel       func() // nil: it does not run yet
	done         chan struct{}
	once         sync.Once
}

// newManager returns the certificate manager of a listener: one of others that wants
// the same, or else a new one, which does not run yet.
func (k *Keeper) newManager(cfg *config.Config, a *config.ACME, others []listener) (*certificateManager, error) {
	o := acme.Options{Domains: a.Domains, Email: a.Email, Directory: a.Directory, Roots: a.CA, HTTP: slices.ContainsFunc(cfg.Listeners, isPlain)}
	for _, l := range others {
		if m := l.manager(); m != nil && reflect.DeepEqual(m.options, o) {
			return m, nil
		}
	}
	certificates, err := acme.New(o, filepath.Join(cfg.State, "acme"), k.challenges, k.log)
	if err != nil {
		return nil, err
	}
	return &certificateManager{certificates: certificates, options: o, done: make(chan struct{})}, nil
}

func isPlain(l config.Listener) bool { return l.TLS == nil }

// manager returns what obtains the certificates of a listener; nil: nothing does.
func (l listener) manager() *certificateManager {
	if l.certificates == nil {
		return nil
	}
	return l.certificates.manager
}

// pem returns the certificates that there are.
func (m *certificateManager) pem() (all []seam.Certificate, err error) {
	chains, keys, err := m.certificates.PEM()
	for i := range chains {
		all = append(all, seam.Certificate{Chain: chains[i], Key: keys[i]})
	}
	return all, err
}

// run obtains what is missing. If that is under way already it tries at once.
func (m *certificateManager) run() {
	if m.cancel != nil {
		m.certificates.Retry()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() {
		defer close(m.done)
		m.certificates.Run(ctx)
	}()
}

// end stops the manager, and returns when it has stopped or ctx is done.
func (m *certificateManager) end(ctx context.Context) {
	m.once.Do(func() {
		if m.cancel == nil {
			m.certificates.Close()
			return
		}
		m.cancel()
		select {
		case <-m.done:
		case <-ctx.Done():
		}
	})
}

// managers returns the certificate managers of listeners, each once.
func managers(of []listener) (all []*certificateManager) {
	for _, l := range of {
		if m := l.manager(); m != nil && !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// endManagers ends the certificate managers of listeners, save those that others
// use.
func endManagers(ctx context.Context, of, others []listener) {
	kept := managers(others)
	var wg sync.WaitGroup
	for _, m := range managers(of) {
		if !slices.Contains(kept, m) {
			wg.Go(func() { m.end(ctx) })
		}
	}
	wg.Wait()
}

// missingCertificates returns the domains of listeners without a certificate.
func missingCertificates(of []listener) (domains []string) {
	for _, m := range managers(of) {
		domains = append(domains, m.certificates.Missing()...)
	}
	return domains
}

const challengeTimeout = 5 * time.Second // for the front to take challenges

// useChallenges has the front answer the challenges that are pending.
func (k *Keeper) useChallenges(ctx context.Context, pending []acme.Challenge) error {
	all := make([]seam.Challenge, len(pending))
	for i, p := range pending {
		all[i] = seam.Challenge{Domain: p.Domain, Path: p.Path, Answer: p.Answer}
		if p.Chain != nil {
			all[i].Certificate = &seam.Certificate{Chain: p.Chain, Key: p.Key}
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), challengeTimeout)
	defer cancel()
	return k.front.UseChallenges(ctx, all)
}
