package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// Traffic implements firewall.Backend. It asks the kernel for single elements; the library
// can only list whole sets.
func (b *Backend) Traffic(ctx context.Context, grants []firewall.Grant) ([]firewall.Grant, error) {
	return call(ctx, b, func() (counted []firewall.Grant, err error) {
		if b.guard == nil {
			return nil, firewall.ErrNotGuarded
		}
		err = b.do("read counters", func(*nftables.Conn) error {
			for _, g := range grants {
				if ctx.Err() != nil {
					return nil
				}
				found, err := b.held(g)
				if err != nil && !errors.Is(err, syscall.ENOENT) { // ENOENT: it has ended
					return err
				}
				if err == nil && found.ID == g.ID {
					g.Packets, g.Bytes = found.Packets, found.Bytes
					counted = append(counted, g)
				}
			}
			return nil
		})
		return counted, err
	})
}

// held reads the element of a grant. The caller is within do.
func (b *Backend) held(g firewall.Grant) (h firewall.Held, err error) {
	door := b.guard.Door(g.Door)
	if door == nil {
		return h, syscall.ENOENT
	}
	f := familyOf(g.Client.Addr())
	key := g.Client.Addr().AsSlice()
	value := attributes(netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: key})
	element := attributes(netlink.Attribute{Type: netlink.Nested | unix.NFTA_SET_ELEM_KEY, Data: value})
	list := attributes(netlink.Attribute{Type: netlink.Nested | unix.NFTA_LIST_ELEM, Data: element})
	answers, err := b.sock.Execute(b.message(unix.NFT_MSG_GETSETELEM, netlink.Request,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(b.table.Name), 0)},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(f.grantSetName(*door)), 0)},
		netlink.Attribute{Type: netlink.Nested | unix.NFTA_SET_ELEM_LIST_ELEMENTS, Data: list}))
	if err != nil {
		return h, err
	}
	for _, m := range answers {
		e, err := parseElement(m.Data)
		if err != nil {
			return h, err
		}
		e.Key = key
		if read, ok := readElement(*door, f, e, time.Now(), clock()); ok {
			return read.Held, nil
		}
	}
	return h, syscall.ENOENT
}

func attributes(all ...netlink.Attribute) []byte {
	data, _ := netlink.MarshalAttributes(all) // fails only over 64 KiB
	return data
}

// parseElement reads the comment and the counter of the element in an answer.
func parseElement(message []byte) (e nftables.SetElement, err error) {
	if len(message) < 4 {
		return e, errors.New("a message without a header")
	}
	inner := func(data []byte, f func(*netlink.AttributeDecoder) error) error {
		ad, err := netlink.NewAttributeDecoder(data)
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if err := f(ad); err != nil {
				return err
			}
		}
		return ad.Err()
	}
	counter := func(ad *netlink.AttributeDecoder) error {
		switch ad.Type() {
		case unix.NFTA_COUNTER_BYTES:
			e.Counter.Bytes = ad.Uint64()
		case unix.NFTA_COUNTER_PACKETS:
			e.Counter.Packets = ad.Uint64()
		}
		return nil
	}
	expression := func(ad *netlink.AttributeDecoder) error {
		if ad.Type() == unix.NFTA_EXPR_DATA {
			e.Counter = new(expr.Counter)
			return inner(ad.Bytes(), counter)
		}
		return nil
	}
	element := func(ad *netlink.AttributeDecoder) error {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_USERDATA:
			e.Comment, _ = userdata.GetString(ad.Bytes(), userdata.NFTNL_UDATA_SET_ELEM_COMMENT)
		case unix.NFTA_SET_ELEM_EXPR: // the only one: sets of grants have a counter and nothing else
			return inner(ad.Bytes(), expression)
		}
		return nil
	}
	err = inner(message[4:], func(ad *netlink.AttributeDecoder) error {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return inner(ad.Bytes(), func(ad *netlink.AttributeDecoder) error { return inner(ad.Bytes(), element) })
	})
	return e, err
}
