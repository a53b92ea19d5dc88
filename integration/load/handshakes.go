package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"webknock/integration/lab"
)

// Handshakes are full handshakes of TLS 1.3, each followed by one request in
// the same connection, which lasts until the server ends it.
type Handshakes struct {
	To          netip.AddrPort
	Number      int
	Connections int // at once
	Path        string
	Curve       tls.CurveID // of the key exchange
}

// On has a process on a host do it. Knocked.Bytes counts what comes after the
// handshake, and what is not Reset is Closed.
func (h Handshakes) On(ctx context.Context, host *lab.Host) (Knocked, error) {
	return on[Knocked](ctx, host, "handshakes", h)
}

func (h Handshakes) do() (any, error) {
	config := &tls.Config{
		InsecureSkipVerify: true, // its cost is the client's
		ServerName:         "home.example.org",
		MinVersion:         tls.VersionTLS13,
		CurvePreferences:   []tls.CurveID{h.Curve},
	}
	var result Knocked
	failed := make(chan error, h.Connections)
	var mu sync.Mutex
	var wg sync.WaitGroup
	began := time.Now()
	for i := range h.Connections {
		wg.Go(func() {
			for range (h.Number + h.Connections - 1 - i) / h.Connections {
				n, err := h.knock(config)
				if err != nil && !errors.Is(err, syscall.ECONNRESET) {
					failed <- err
					return
				}
				mu.Lock()
				result.Bytes += int64(n)
				if err != nil {
					result.Reset++
				} else {
					result.Closed++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	result.Elapsed = time.Since(began)
	close(failed)
	return result, <-failed // the first, or nil
}

// knock returns how many bytes came after the handshake, and how the connection
// was ended: nil is a FIN.
func (h Handshakes) knock(config *tls.Config) (int, error) {
	tcp, err := net.DialTimeout("tcp", h.To.String(), patience)
	if err != nil {
		return 0, err
	}
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(patience))
	conn := tls.Client(tcp, config)
	if err := conn.Handshake(); err != nil {
		return 0, fmt.Errorf("handshake: %w", err)
	}
	if _, err := conn.Write(request(h.Path)); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	buf := make([]byte, 512)
	for total := 0; ; {
		n, err := conn.Read(buf)
		total += n
		var timeout net.Error
		switch {
		case errors.Is(err, syscall.ECONNRESET):
			return total, syscall.ECONNRESET
		case errors.As(err, &timeout) && timeout.Timeout():
			return total, err
		case err != nil: // with or without a word of goodbye
			return total, nil
		}
	}
}
