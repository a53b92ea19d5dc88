package keeper

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"time"

	"webknock/config"
	"webknock/internal/seam"
)

// A certificateSource has the certificates of a listener. They are in files, which are
// read again when they change, or a manager obtains them, or they were kept. It belongs
// to whoever holds k.reloading.
type certificateSource struct {
	chain, key string              // files; empty: there are none
	manager    *certificateManager // nil: none obtains them
	log        *slog.Logger

	current []seam.Certificate // what the front has
	stamps  [2]stamp           // of the files, when they were read
	failing bool
}

// A stamp shows whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
}

// newCertificates returns the certificates of a listener. Where others obtain the same
// ones it shares their manager.
func (k *Keeper) newCertificates(cfg *config.Config, c *config.TLS, others []listener) (s *certificateSource, err error) {
	s = &certificateSource{log: k.log}
	switch {
	case c.ACME != nil:
		if s.manager, err = k.newManager(cfg, c.ACME, others); err != nil {
			return nil, err
		}
		s.current, err = s.manager.pem()
	case c.Kept != nil:
		s.current = []seam.Certificate{{Chain: c.Kept.Chain, Key: c.Kept.Key}}
	default:
		s.chain, s.key = c.Certificate, c.Key
		err = s.read(s.stamp())
	}
	return s, err
}

func (s *certificateSource) stamp() (stamps [2]stamp) {
	for i, file := range []string{s.chain, s.key} {
		if info, err := os.Stat(file); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return stamps
}

// read reads the files, which had the given stamps before.
func (s *certificateSource) read(stamps [2]stamp) error {
	chain, err := os.ReadFile(s.chain)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", s.chain, err)
	}
	key, err := os.ReadFile(s.key)
	if err == nil {
		_, err = tls.X509KeyPair(chain, key)
	}
	if err != nil {
		return fmt.Errorf("certificate %s: %w", s.chain, err)
	}
	s.current, s.stamps = []seam.Certificate{{Chain: chain, Key: key}}, stamps
	return nil
}

// changed looks whether there are other certificates than before.
func (s *certificateSource) changed() bool {
	switch {
	case s.manager != nil:
		now, err := s.manager.pem()
		if err != nil || reflect.DeepEqual(now, s.current) {
			return false
		}
		s.current = now
		return true
	case s.chain == "":
		return false
	}
	stamps := s.stamp()
	if stamps == s.stamps {
		return false
	}
	err := s.read(stamps)
	switch {
	case err == nil:
		s.log.Info("certificate loaded again", "file", s.chain, "until", expiry(s.current[0]))
	case !s.failing: // perhaps they are being written: the old one stays in use
		s.log.Error("the new certificate cannot be used; the old one stays in use", "error", err)
	}
	s.failing = err != nil
	return err == nil
}

// expiry returns until when a certificate is valid.
func expiry(c seam.Certificate) time.Time {
	pair, err := tls.X509KeyPair(c.Chain, c.Key)
	if err != nil {
		return time.Time{}
	}
	return pair.Leaf.NotAfter
}

const certificateCheck = time.Second // between two looks at the certificates

// watchCertificates hands certificates that have changed over to the front, until ctx
// is done. While no listener has any it has no timer.
func (k *Keeper) watchCertificates(ctx context.Context) {
	for {
		var tick <-chan time.Time
		for _, l := range k.currentListeners() {
			if l.TLS {
				tick = time.After(certificateCheck)
			}
		}
		select {
		case <-tick:
			k.renewCertificates(ctx)
		case <-k.recheck:
		case <-ctx.Done():
			return
		}
	}
}

// watchCertificatesAgain has watchCertificates look at the listeners of now.
func (k *Keeper) watchCertificatesAgain() {
	select {
	case k.recheck <- struct{}{}:
	default:
	}
}

func (k *Keeper) renewCertificates(ctx context.Context) {
	k.reloading.Lock()
	defer k.reloading.Unlock()
	for _, l := range k.currentListeners() {
		if !l.TLS || !l.certificates.changed() {
			continue
		}
		if err := k.front.UseCertificates(ctx, l.Address, l.certificates.current); err != nil && ctx.Err() == nil {
			k.log.Error("a new certificate is not in use", "listener", l.Address, "error", err)
		}
	}
}
