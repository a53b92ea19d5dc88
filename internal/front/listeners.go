package front

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"mime"
	"net"
	"path/filepath"
	"slices"
	"sync"

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

// take returns a listener for every address of cfg: the one in old that has it, or
// else a new one on the socket for it, and the options of each. If it returns an
// error it has taken no socket.
func (f *Front) take(ctx context.Context, cfg *config.Config, sockets []seam.Socket, old []*listener) (_ []*listener, err error) {
	var all, added []*listener
	defer func() {
		if err != nil {
			closeAll(added)
			endManagers(ctx, all, old)
		}
	}()
	for i, c := range cfg.Listeners {
		f.shards.tallies.add(c.Address)
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
		tcp, err := listenerOf(sockets[i])
		if err != nil {
			return nil, err
		}
		l.socket = httpd.Receive(tcp, l.options)
		added = append(added, l)
	}
	return all, nil
}

// listenerOf returns a listener with a descriptor of its own of a socket.
func listenerOf(s seam.Socket) (*net.TCPListener, error) {
	l, err := net.FileListener(s.File)
	if err != nil {
		return nil, fmt.Errorf("the socket of %s: %w", s.Address, err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("the socket of %s is not TCP", s.Address)
	}
	return tcp, nil
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
		Name:    c.Address,
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
