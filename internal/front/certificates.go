package front

import (
	"context"
	"path/filepath"
	"reflect"
	"slices"
	"sync"

	"webknock/config"
	"webknock/internal/acme"
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

// manager returns the certificate manager of a listener: one of others that wants
// the same, or else a new one, which does not run yet.
func (f *Front) manager(cfg *config.Config, a *config.ACME, others []*listener) (*certificateManager, error) {
	o := acme.Options{Domains: a.Domains, Email: a.Email, Directory: a.Directory, Roots: a.CA, HTTP: slices.ContainsFunc(cfg.Listeners, isPlain)}
	for _, l := range others {
		if l.manager != nil && reflect.DeepEqual(l.manager.options, o) {
			return l.manager, nil
		}
	}
	certificates, err := acme.New(o, filepath.Join(cfg.State, "acme"), &f.challenges, f.log)
	if err != nil {
		return nil, err
	}
	return &certificateManager{certificates: certificates, options: o, done: make(chan struct{})}, nil
}

func isPlain(l config.Listener) bool { return l.TLS == nil }

func hasACME(l config.Listener) bool { return l.TLS != nil && l.TLS.ACME != nil }

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
func managers(of []*listener) (all []*certificateManager) {
	for _, l := range of {
		if l.manager != nil && !slices.Contains(all, l.manager) {
			all = append(all, l.manager)
		}
	}
	return all
}

// endManagers ends the certificate managers of listeners, save those that others
// use.
func endManagers(ctx context.Context, of, others []*listener) {
	kept := managers(others)
	var wg sync.WaitGroup
	for _, m := range managers(of) {
		if !slices.Contains(kept, m) {
			wg.Go(func() { m.end(ctx) })
		}
	}
	wg.Wait()
}
