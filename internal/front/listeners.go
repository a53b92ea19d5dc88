package front

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"

	"webknock/httpd"
	"webknock/internal/seam"
)

// A listener is what serves one address of the configuration.
type listener struct {
	socket       *httpd.Listener
	address      string // as configured
	options      httpd.Options
	certificates *certificates // nil: it is plain
}

// take returns a listener for every address of cfg: the one in old that has it, or
// else a new one on the socket for it, and the options of each. If it returns an
// error it has taken no socket.
func (f *Front) take(cfg seam.Configuration, sockets []seam.Socket, old []*listener) (_ []*listener, err error) {
	var all, added []*listener
	defer func() {
		if err != nil {
			closeAll(added)
		}
	}()
	if len(sockets) != len(cfg.Listeners) {
		return nil, fmt.Errorf("%d sockets for %d listeners", len(sockets), len(cfg.Listeners))
	}
	for i, c := range cfg.Listeners {
		f.shards.tallies.add(c.Address)
		l := &listener{address: c.Address}
		if err := f.configure(l, cfg, c); err != nil {
			return nil, fmt.Errorf("listener %s: %w", c.Address, err)
		}
		all = append(all, l)
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
func coverOf(c seam.Cover) (httpd.Cover, error) {
	switch {
	case c.Proxy != "":
		site, err := url.Parse(c.Proxy)
		return httpd.Proxy{Site: site}, err
	case c.Status != 0:
		return httpd.Status{Code: c.Status, Type: c.Type, Body: c.Body}, nil
	}
	return httpd.Drop{}, nil
}

// configure sets what a listener does.
func (f *Front) configure(l *listener, cfg seam.Configuration, c seam.ListenerOptions) error {
	cover, err := coverOf(c.Cover)
	if err != nil {
		return err
	}
	l.options = httpd.Options{
		Name:    c.Address,
		Max:     c.MaxConnections,
		Clients: httpd.Clients{Source: httpd.Source(c.ClientAddress), Proxies: c.Proxies},
		Cover:   cover,
		Post:    f.shards.post,
		Log:     f.log,
		Refused: &f.refused,
	}
	if c.TLS == nil {
		if slices.ContainsFunc(cfg.Listeners, func(l seam.ListenerOptions) bool { return l.TLS != nil && l.TLS.ACME }) {
			l.options.Challenge = f.challenges.answer
		}
		return nil
	}
	if l.certificates, err = newCertificates(c.TLS); err != nil {
		return err
	}
	protocols := []string{"http/1.1"}
	if !l.options.Drops() {
		protocols = []string{"h2", "http/1.1"}
	}
	l.options.TLS = httpd.TLSConfig(l.certificates.get, c.TLS.ServerNames, protocols)
	if c.TLS.ACME {
		httpd.AnswerTLSALPN(l.options.TLS, f.challenges.certificate)
	}
	return nil
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
