package keeper

import (
	"context"
	"slices"

	"webknock/config"
	"webknock/internal/keeper/forfront"
)

// prepare binds the addresses of a configuration that are new, loads its certificates,
// has the front prepare it, and binds the address of the metrics. If it fails nothing has
// changed. Commit or abort follows.
func (k *Keeper) prepare(ctx context.Context, cfg *config.Config) ([]listener, error) {
	listeners, err := k.sockets.prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	old := k.currentListeners()
	for i, c := range cfg.Listeners {
		if c.TLS == nil {
			continue
		}
		if listeners[i].certificates, err = k.newCertificates(cfg, c.TLS, slices.Concat(old, listeners[:i])); err != nil {
			break
		}
	}
	if err == nil {
		err = k.prepareFront(ctx, cfg, listeners)
	}
	if err == nil {
		if err = k.scraped.Prepare(ctx, cfg.Admin.Metrics); err != nil {
			k.front.Abort()
			err = explainListen(err)
		}
	}
	if err != nil {
		k.sockets.abort()
		endManagers(ctx, listeners, old)
		return nil, err
	}
	return listeners, nil
}

// prepareFront has the front prepare a configuration with its listeners.
func (k *Keeper) prepareFront(ctx context.Context, cfg *config.Config, listeners []listener) error {
	c := forfront.Configuration(cfg)
	for i, l := range listeners {
		if l.certificates != nil {
			c.Listeners[i].TLS.Certificates = l.certificates.current
		}
	}
	return k.front.Prepare(ctx, c, k.sockets.values())
}

// commit has the front put what was prepared in force. Then, when challenges can be
// answered, it has certificates obtained. Old has the listeners of before.
func (k *Keeper) commit(ctx context.Context, listeners, old []listener) error {
	if err := k.front.Commit(ctx); err != nil {
		k.sockets.abort()
		return err
	}
	k.sockets.use()
	k.scraped.Commit()
	for _, m := range managers(listeners) {
		m.run()
	}
	endManagers(ctx, old, listeners)
	k.watchCertificatesAgain()
	return nil
}

func (k *Keeper) abort(ctx context.Context, listeners []listener) {
	k.front.Abort()
	k.sockets.abort()
	k.scraped.Abort()
	endManagers(ctx, listeners, k.currentListeners())
}

// currentListeners returns the listeners of the configuration in force; before the
// first is, those that are prepared.
func (k *Keeper) currentListeners() []listener {
	if all := k.listeners.Load(); all != nil {
		return *all
	}
	return nil
}
