package httpd

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"

	"github.com/pires/go-proxyproto"
)

// acmeTLS is the protocol of the challenge TLS-ALPN-01 (RFC 8737, section 6.2).
const acmeTLS = "acme-tls/1"

var errChallenge = errors.New("no challenge of this name is pending")

// AnswerTLSALPN makes a configuration answer TLS-ALPN-01 challenges too (RFC 8737). A
// handshake that offers their protocol and no other gets the certificate that pending
// returns for its server name. It is refused if that is nil, and so is any handshake
// that offers the protocol among others.
func AnswerTLSALPN(config *tls.Config, pending func(name string) *tls.Certificate) {
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Contains(hello.SupportedProtos, acmeTLS) {
			return nil, nil
		}
		if len(hello.SupportedProtos) == 1 {
			if certificate := pending(serverName(hello)); certificate != nil {
				return &tls.Config{
					Certificates:           []tls.Certificate{*certificate},
					MinVersion:             tls.VersionTLS12,
					NextProtos:             []string{acmeTLS},
					SessionTicketsDisabled: true,
				}, nil
			}
		}
		return nil, refuse(hello.Conn, errChallenge)
	}
}

// refuse resets the connection of a handshake, so that TLS cannot send an alert. It
// returns the error. Under a cover that drops the connection is a quiet one, which sends
// no alert, and is reset soon anyway.
func refuse(conn net.Conn, err error) error {
	if named, ok := conn.(*proxyproto.Conn); ok {
		conn = named.Raw()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
		tcp.Close()
	}
	return err
}

// answerChallenge answers a head that is a pending challenge, and reports whether it
// was one. A challenge is no knock. Its connection is closed without a reset, so that
// the answer can be read.
func (o Options) answerChallenge(tcp *net.TCPConn, conn net.Conn, head []byte) bool {
	if secured, ok := conn.(*tls.Conn); ok {
		return secured.ConnectionState().NegotiatedProtocol == acmeTLS // the handshake was the answer
	}
	if o.Challenge == nil {
		return false
	}
	answer := o.Challenge(head)
	if answer == nil {
		return false
	}
	if tcp.SetLinger(-1) == nil {
		conn.Write(answer)
	}
	return true
}

// answerChallengeRequest is answerChallenge for a request that net/http has read.
func (o Options) answerChallengeRequest(w http.ResponseWriter, r *http.Request) bool {
	if o.Challenge == nil || r.TLS != nil {
		return false
	}
	answer := o.Challenge([]byte(r.Method + " " + r.RequestURI + " HTTP/1.1\r\nHost: " + r.Host + "\r\n\r\n"))
	if answer == nil {
		return false
	}
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		conn.Write(answer)
		conn.Close()
	}
	return true
}
