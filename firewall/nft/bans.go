package nft

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"

	"webknock/firewall"
)

// Ban implements firewall.Backend.
func (b *Backend) Ban(ctx context.Context, bans []firewall.Ban) error {
	return b.call(ctx, func() error { return b.banLocked(bans) })
}

// banLocked is Ban for a caller that holds b.lock.
func (b *Backend) banLocked(bans []firewall.Ban) error {
	if b.guard == nil {
		return firewall.ErrNotGuarded
	}
	if !shielded(*b.guard) {
		return nil
	}
	return b.do("ban", func(c *nftables.Conn) error {
		var failed error
		now := clock()
		for _, f := range families {
			var before, want []nftables.SetElement
			for _, ban := range bans {
				if ban.Client.Addr().Is4() != f.isIPv4 {
					continue
				}
				key := ban.Client.Addr().AsSlice()
				before = append(before, nftables.SetElement{Key: key})
				if left := time.Until(ban.Until).Truncate(time.Millisecond); left > 0 {
					want = append(want, nftables.SetElement{Key: key, Timeout: left, Comment: string(appendMark(nil, ban.Until, now))})
				}
			}
			for part := range slices.Chunk(before, chunk) {
				failed = errors.Join(failed, c.SetAddElements(b.banSet(f), part), c.SetDeleteElements(b.banSet(f), part))
			}
			for part := range slices.Chunk(want, chunk) {
				failed = errors.Join(failed, c.SetAddElements(b.banSet(f), part))
			}
		}
		return errors.Join(failed, c.Flush())
	})
}

// Bans implements firewall.Backend.
func (b *Backend) Bans(ctx context.Context) (ours, foreign []firewall.Ban, err error) {
	type both struct{ ours, foreign []firewall.Ban }
	bans, err := call(ctx, b, func() (bans both, err error) {
		bans.ours, bans.foreign, err = b.bansLocked()
		return bans, err
	})
	return bans.ours, bans.foreign, err
}

// bansLocked is Bans for a caller that holds b.lock.
func (b *Backend) bansLocked() (ours, foreign []firewall.Ban, err error) {
	if b.guard == nil || !shielded(*b.guard) {
		return nil, nil, nil
	}
	err = b.do("read bans", func(c *nftables.Conn) error {
		for _, f := range families {
			asked := time.Now()
			elements, err := c.GetSetElements(b.banSet(f))
			if err != nil {
				return err
			}
			now := clock()
			for _, e := range elements {
				addr, ok := netip.AddrFromSlice(e.Key)
				if !ok {
					continue
				}
				var h firewall.Held
				parseComment(e.Comment, &h, now)
				ban := firewall.Ban{Client: netip.PrefixFrom(addr, f.offenderBits()), Until: ending(e, h.Expires, asked, now.wall)}
				if h.Origin == firewall.Ours && ban.Client == ban.Client.Masked() && ban.Until.Equal(h.Expires) {
					ours = append(ours, ban)
				} else {
					foreign = append(foreign, ban)
				}
			}
		}
		return nil
	})
	return ours, foreign, err
}
