package client

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"
)

// defaultTTL is how long a grant lasts where neither the profile nor the door
// says otherwise.
const defaultTTL = 30 * time.Second

// addressInterval is how often Watch looks at the addresses of this machine.
const addressInterval = 2 * time.Second

// failedPause is the longest pause after a round that opened nothing.
const failedPause = 15 * time.Second

// Watch knocks, and knocks again when half of the grant's time is over or an
// own address has changed, until ctx is done. It calls each with the result of every
// round.
func Watch(ctx context.Context, p *Profile, o Options, ttl time.Duration, each func(Result, error)) {
	if ttl == 0 {
		ttl = p.TTL
	}
	if ttl == 0 {
		ttl = defaultTTL
	}
	for ctx.Err() == nil {
		from := ownAddresses(ctx, p)
		result, err := Knock(ctx, p, o)
		each(result, err)
		pause := ttl / 2
		if err != nil || !result.Open {
			pause = min(pause, failedPause)
		}
		again := time.NewTimer(pause)
		look := time.NewTicker(addressInterval)
		for same := true; same; {
			select {
			case <-again.C:
				same = false
			case <-look.C:
				now := ownAddresses(ctx, p)
				same = len(now) == 0 || slices.Equal(from, now)
			case <-ctx.Done():
				same = false
			}
		}
		again.Stop()
		look.Stop()
	}
}

// ownAddresses returns the addresses from which this machine would reach the
// servers. Nothing is sent.
func ownAddresses(ctx context.Context, p *Profile) (own []netip.Addr) {
	d := dialer{p}
	for _, s := range p.Servers {
		ways, err := d.routes(ctx, s)
		if err != nil {
			continue
		}
		for _, w := range ways {
			if w.proxy != nil {
				continue
			}
			c, err := net.Dial("udp", net.JoinHostPort(w.addr.String(), s.Port))
			if err != nil {
				continue
			}
			own = append(own, c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap())
			c.Close()
		}
	}
	return own
}
