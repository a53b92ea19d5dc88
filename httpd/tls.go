package httpd

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
)

var errServerName = errors.New("a server name that is not served")

// TLSConfig returns the configuration of a listener, according to Mozilla's
// intermediate recommendations: TLS 1.2 with forward secrecy, and TLS 1.3. If names is
// not empty, handshakes for other server names are refused before anything is signed.
// While get returns an error every handshake is refused. ALPN offers the protocols.
func TLSConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), names, protocols []string) *tls.Config {
	return &tls.Config{
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if len(names) > 0 && !slices.Contains(names, serverName(hello)) {
				return nil, refuse(hello.Conn, errServerName)
			}
			certificate, err := get(hello)
			if err != nil {
				return nil, refuse(hello.Conn, err)
			}
			return certificate, nil
		},
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos: protocols,
		// A ticket would be one more record, and would be sent at another time.
		SessionTicketsDisabled: true,
	}
}

func serverName(hello *tls.ClientHelloInfo) string {
	return strings.TrimSuffix(strings.ToLower(hello.ServerName), ".")
}

// secure makes the handshake of a connection that is to be dropped. Nothing is sent
// about a handshake that fails, and nothing after the handshake, such as the answer to a
// KeyUpdate (RFC 8446, section 4.6.3).
func secure(conn net.Conn, config *tls.Config) (*tls.Conn, error) {
	q := &quiet{Conn: conn}
	secured := tls.Server(q, config)
	if err := secured.Handshake(); err != nil {
		return nil, err
	}
	q.mute = true
	return secured, q.flush()
}

// A quiet connection holds back what is written until something is read.
type quiet struct {
	net.Conn
	held []byte
	mute bool // from now on, nothing is written
}

func (q *quiet) Write(p []byte) (int, error) {
	if !q.mute {
		q.held = append(q.held, p...)
	}
	return len(p), nil
}

func (q *quiet) Read(p []byte) (int, error) {
	if err := q.flush(); err != nil {
		return 0, err
	}
	return q.Conn.Read(p)
}

func (q *quiet) flush() error {
	if len(q.held) == 0 {
		return nil
	}
	_, err := q.Conn.Write(q.held)
	q.held = q.held[:0]
	return err
}
