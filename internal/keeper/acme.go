package keeper

import (
	"context"
	"path/filepath"
	"reflect"
	"slices"
	"sync"

	"webknock/config"
	"webknock/internal/acme"
)

// authority is who a listener has its certificates from. Listeners that want the
// same share one.
type authority struct {
	*acme.Certificates
	options acme.Options
	stop    func() // nil: it does not run yet
	once    sync.Once
}

// authority returns one of a configuration: an old one that is the same, or
// else a new one, which does not run yet.
func (d *Daemon) authority(cfg *config.Config, a *config.ACME, old []*listener) (*authority, error) {
	o := acme.Options{Domains: a.Domains, Email: a.Email, Directory: a.Directory, Roots: a.CA, HTTP: slices.ContainsFunc(cfg.Listeners, isPlain)}
	for _, l := range old {
		if l.authority != nil && reflect.DeepEqual(l.authority.options, o) {
			return l.authority, nil
		}
	}
	certificates, err := acme.New(o, filepath.Join(cfg.State, "acme"), &d.challenges, d.Log)
	if err != nil {
		return nil, err
	}
	return &authority{Certificates: certificates, options: o}, nil
}

func isPlain(l config.Listener) bool { return l.TLS == nil }

func hasACME(l config.Listener) bool { return l.TLS != nil && l.TLS.ACME != nil }

// run obtains what is missing. If that is under way already it tries at once.
func (a *authority) run() {
	if a.stop != nil {
		a.Retry()
		return
	}
	a.stop = start(context.Background(), a.Run)
}

func (a *authority) end() {
	a.once.Do(func() {
		if a.stop != nil {
			a.stop()
		} else {
			a.Close()
		}
	})
}

// authorities returns those of listeners, each once.
func authorities(of []*listener) (all []*authority) {
	for _, l := range of {
		if l.authority != nil && !slices.Contains(all, l.authority) {
			all = append(all, l.authority)
		}
	}
	return all
}

// endAuthorities ends those of listeners, save what others use.
func endAuthorities(of, others []*listener) {
	kept := authorities(others)
	var wg sync.WaitGroup
	for _, a := range authorities(of) {
		if !slices.Contains(kept, a) {
			wg.Go(a.end)
		}
	}
	wg.Wait()
}
