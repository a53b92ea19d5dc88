package front

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"webknock/config"
	"webknock/httpd"
	"webknock/internal/seam"
)

// A listener is what serves one address of the configuration.
type listener struct {
	socket  *httpd.Listener
	address string // as configured
	options httpd.Options
	manager *certificateManager // nil: its certificate is in files, or it is plain
}

// value returns a listener as the keeper is told of it.
func (l *listener) value() seam.Listener {
	return seam.Listener{Address: l.address, Bound: l.socket.Addr(), TLS: l.options.TLS != nil, Cover: l.options.Cover.String(), Drops: l.options.Drops()}
}

// bind returns a listener for every address of cfg: the one in old that has
// it, or else a new one, and the options of each. If it returns an error it has
// bound none.
func (f *Front) bind(ctx context.Context, cfg *config.Config, old []*listener) (_ []*listener, err error) {
	var all, added []*listener
	defer func() {
		if err != nil {
			closeAll(added)
			endManagers(ctx, all, old)
		}
	}()
	for _, c := range cfg.Listeners {
		l := &listener{address: c.Address}
		if hasACME(c) {
			if l.manager, err = f.manager(cfg, c.TLS.ACME, slices.Concat(old, all)); err != nil {
				return nil, err
			}
		}
		all = append(all, l)
		if l.options, err = f.options(cfg, c, l.manager); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(old, func(o *listener) bool { return o.address == c.Address }); i >= 0 {
			l.socket = old[i].socket
			continue
		}
		if l.socket, err = f.listen(ctx, c.Address, l.options); err != nil {
			return nil, explainListen(err)
		}
		added = append(added, l)
	}
	return all, nil
}

// listen binds an address, or takes a socket from systemd.
func (f *Front) listen(ctx context.Context, address string, o httpd.Options) (*httpd.Listener, error) {
	name, ok := strings.CutPrefix(address, "systemd:")
	if !ok {
		return httpd.Listen(ctx, address, o)
	}
	if len(f.sockets[name]) == 0 {
		return nil, fmt.Errorf("systemd has handed over no socket %s (FileDescriptorName=%s in the .socket unit)", name, name)
	}
	tcp, ok := f.sockets[name][0].(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("the socket %s from systemd is not TCP (ListenStream=PORT)", name)
	}
	// A copy, so that what is closed at a reload can be opened again.
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	copied, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return httpd.ListenOn(copied.(*net.TCPListener), o)
}

// CanListen implements seam.Front.
func (f *Front) CanListen(ctx context.Context, address string) error {
	if name, ok := strings.CutPrefix(address, "systemd:"); ok && len(f.sockets[name]) > 0 {
		return nil
	}
	l, err := f.listen(ctx, address, httpd.Options{Log: f.log})
	if err != nil {
		return explainListen(err)
	}
	return l.Close()
}

// coverOf returns the cover that a configuration asks for.
func coverOf(c config.Cover) httpd.Cover {
	switch {
	case c.Proxy != nil:
		return httpd.Proxy{Site: c.Proxy}
	case c.Status != 0:
		s := httpd.Status{Code: c.Status, Body: c.Body}
		if c.BodyFile != "" {
			s.Type = cmp.Or(mime.TypeByExtension(filepath.Ext(c.BodyFile)), "text/html; charset=utf-8")
		}
		return s
	}
	return httpd.Drop{}
}

// options returns what a listener does; m is nil unless it has ACME.
func (f *Front) options(cfg *config.Config, c config.Listener, m *certificateManager) (o httpd.Options, err error) {
	o = httpd.Options{
		Max:     c.MaxConnections,
		Clients: httpd.Clients{Source: httpd.Source(c.ClientAddress), Proxies: c.Proxies},
		Cover:   coverOf(c.Cover),
		Post:    f.shards.post,
		Log:     f.log,
		Refused: &f.refused,
	}
	if c.TLS == nil {
		if slices.ContainsFunc(cfg.Listeners, hasACME) {
			o.Challenge = f.challenges.Answer
		}
		return o, nil
	}
	protocols := []string{"http/1.1"}
	if !o.Drops() {
		protocols = []string{"h2", "http/1.1"}
	}
	if m != nil {
		o.TLS = httpd.TLSConfig(m.certificates.Get, c.TLS.ServerNames, protocols)
		httpd.AnswerTLSALPN(o.TLS, f.challenges.Certificate)
		return o, nil
	}
	if kept := c.TLS.Kept; kept != nil {
		o.TLS = httpd.TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return kept, nil }, c.TLS.ServerNames, protocols)
		return o, nil
	}
	certificate, err := httpd.LoadCertificate(c.TLS.Certificate, c.TLS.Key, f.log)
	if err != nil {
		return o, err
	}
	o.TLS = httpd.TLSConfig(certificate.Get, c.TLS.ServerNames, protocols)
	return o, nil
}

// explainListen adds a hint to why an address cannot be had.
func explainListen(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w (another program listens there, see ss -ltnp; stop it or choose another address)", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w (ports under 1024 need root or CAP_NET_BIND_SERVICE)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (no interface of this host has the address, see ip address)", err)
	}
	return err
}

// in reports whether some listeners serve the same socket.
func (l *listener) in(all []*listener) bool {
	return slices.ContainsFunc(all, func(o *listener) bool { return o.socket == l.socket })
}

// closeNew closes the listeners that old does not have.
func closeNew(listeners, old []*listener) {
	closeAll(slices.DeleteFunc(slices.Clone(listeners), func(l *listener) bool { return l.in(old) }))
}

func closeAll(listeners []*listener) {
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() { l.socket.Close() })
	}
	wg.Wait()
}
