package httpd

import (
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"

	"webknock/httpd/eventloop"
	"webknock/httpd/pending"
)

// All readers treat a connection that is dropped alike: they read its head, identify the
// client, post the knock, and only then reset the connection. So the knock is in its queue
// before the client can send the next one.

// MaxPending is part of eventloop.Service.
func (s *service) MaxPending() int { return s.Max }

// Head posts the knock of a head that an event loop has read, or answers its
// challenge.
func (s *service) Head(conn eventloop.Conn, head []byte) {
	if s.Challenge != nil {
		if answer := s.Challenge(head); answer != nil {
			conn.Answer(answer)
			return
		}
	}
	k := Knock{Remote: conn.Peer(), Local: conn.Local()}
	if s.identify(&k, head) {
		k.head = getBuffer()
		k.head.bytes = append(k.head.bytes, head...)
		s.Post(k)
	}
}

// drop reads the head of a connection that has a goroutine, posts the knock, and
// then resets the connection.
func (l *Listener) drop(conn *net.TCPConn, e *pending.Entry, s *service) {
	head := getBuffer()
	if k, ok := s.read(conn, head); ok {
		s.Post(k)
	} else {
		putBuffer(head)
	}
	l.pending.Remove(e)
	conn.Close()
}

// read reads a head and identifies its client. It reports false if there is no
// knock.
func (s *service) read(tcp *net.TCPConn, head *buffer) (k Knock, ok bool) {
	if tcp.SetReadDeadline(time.Now().Add(HeadTimeout)) != nil {
		return k, false
	}
	var conn net.Conn = tcp
	if s.Clients.Source == ProxyProtocol {
		var err error
		if conn, err = s.Clients.accept(tcp); err != nil || tcp.SetReadDeadline(time.Now().Add(HeadTimeout)) != nil {
			return k, false
		}
	}
	viaProxy := conn != net.Conn(tcp)
	k = Knock{Remote: addrPort(conn.RemoteAddr()), Local: addrPort(conn.LocalAddr()), ViaProxy: viaProxy, head: head}
	if s.TLS != nil {
		var err error
		if conn, err = secure(conn, s.TLS); err != nil {
			s.Refused.CountSlow(err)
			return k, false
		}
	}
	if err := readHead(conn, head); err != nil {
		s.Refused.CountSlow(err)
		return k, false
	}
	return k, !s.answerChallenge(tcp, conn, head.bytes) && s.identify(&k, head.bytes)
}

// identify completes a knock whose Remote is known: when its head was complete, and
// who its client is. It reports false if a proxy does not name the client.
func (s *service) identify(k *Knock, head []byte) bool {
	s.Refused.count(head)
	k.Listener, k.At, k.TLS = s.Name, time.Now(), s.TLS != nil
	k.Client = k.Remote.Addr()
	if s.Clients.Source == Peer || s.Clients.Source == ProxyProtocol || !s.Clients.trusts(k.Client) {
		return true
	}
	var err error
	header := clientFields(head)
	k.ProxyScheme = s.Clients.scheme(k.Client, header)
	k.Client, err = s.Clients.client(k.Client, header)
	k.ViaProxy = k.Client != k.Remote.Addr()
	return err == nil
}

// accept reads the header of the PROXY protocol if the peer is a proxy that names
// clients this way. From any other peer it reads none.
func (c Clients) accept(tcp *net.TCPConn) (net.Conn, error) {
	if c.Source != ProxyProtocol || !c.trusts(addrPort(tcp.RemoteAddr()).Addr()) {
		return tcp, nil
	}
	conn := proxyproto.NewConn(tcp, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(HeadTimeout))
	header := conn.ProxyHeader()
	if header == nil || header.Command.IsLocal() { // no header, or the proxy's own health check
		return nil, errClient
	}
	source, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return nil, errClient
	}
	if client := addrPort(source).Addr(); !nameable(client) || c.trusts(client) {
		return nil, errClient
	}
	return conn, nil
}

// readHead fills head until it is complete or too large. It returns an error for a
// head that does not end, which is no knock.
func readHead(conn net.Conn, head *buffer) error {
	for scanner := (eventloop.Scanner{Max: MaxHead}); ; {
		if len(head.bytes) == cap(head.bytes) {
			large := make([]byte, len(head.bytes), MaxHead+1)
			copy(large, head.bytes)
			head.bytes = large
		}
		n, err := conn.Read(head.bytes[len(head.bytes):cap(head.bytes)])
		head.bytes = head.bytes[:len(head.bytes)+n]
		if end, complete := scanner.End(head.bytes); complete {
			head.bytes = head.bytes[:end]
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort { return canonical(a.(*net.TCPAddr).AddrPort()) }

// canonical returns an address without a zone, and an IPv4-mapped one as IPv4.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
