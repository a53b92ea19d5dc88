package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// monitor signals changes of our table by other processes until ctx is done. The kernel may
// lose events, so they are only a hint.
func (b *Backend) monitor(ctx context.Context) {
	defer close(b.done)
	for ctx.Err() == nil {
		if err := b.watch(ctx); err != nil {
			b.log.Debug("nftables: cannot watch for changes", "error", err)
		}
		b.signal(firewall.By{}) // changes may have been missed
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Constants of linux/netfilter/nf_tables.h that the library lacks.
const (
	attrTable       = 1 // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE …: the same in all
	attrElementsSet = 2 // NFTA_SET_ELEM_LIST_SET
	attrElements    = 3 // NFTA_SET_ELEM_LIST_ELEMENTS
	attrElementKey  = 1 // NFTA_SET_ELEM_KEY
	attrValue       = 1 // NFTA_DATA_VALUE
	attrProcess     = 2 // NFTA_GEN_PROC_PID
	attrProcessName = 3 // NFTA_GEN_PROC_NAME
)

// watch signals each transaction of another process that changes our table, until events are
// lost or ctx is done. The kernel sends a message for each change of a transaction, and then
// one for its end, which names the process. Reading the table after every transaction on
// this host would cost more.
func (b *Backend) watch(ctx context.Context) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	conn.SetReadBuffer(watchBuffer)
	if err := b.watches(conn); err != nil {
		return fmt.Errorf("set a filter: %w", err)
	}
	defer b.watches(nil)
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return err
	}
	b.signal(firewall.By{}) // earlier changes may have been missed
	for touched := false; ; {
		messages, err := conn.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.PID == b.port.Load() || m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
				continue
			}
			if m.Header.Type&0xff != unix.NFT_MSG_NEWGEN {
				touched = b.touches(m) || touched
				continue
			}
			if touched {
				b.signal(madeBy(m))
			}
			touched = false
		}
	}
}

const watchBuffer = 1 << 20 // bytes

// watches sets the connection that watches (nil: none), and filters our own changes out,
// which would wake the process for each grant.
func (b *Backend) watches(conn *netlink.Conn) error {
	b.watching.Lock()
	defer b.watching.Unlock()
	b.watcher = conn
	return b.filterOwn()
}

// filterOwn filters by the port of our own netlink socket. The caller holds b.watching.
func (b *Backend) filterOwn() error {
	if b.watcher == nil {
		return nil
	}
	var own [4]byte
	binary.NativeEndian.PutUint32(own[:], b.port.Load())
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 4}, // who has made the change (nlmsg_pid, netlink(7)), as if it were big-endian
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(own[:]), SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 18},
	})
	if err != nil {
		return err
	}
	return b.watcher.SetBPF(filter)
}

// touches reports whether a message is about our table. It records changed counts of
// connections in b.tampered.
func (b *Backend) touches(m netlink.Message) bool {
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return true // unreadable: it may be about our table
	}
	elements := m.Header.Type&0xff == unix.NFT_MSG_NEWSETELEM || m.Header.Type&0xff == unix.NFT_MSG_DELSETELEM
	set := ""
	for ad.Next() {
		switch {
		case ad.Type() == attrTable:
			if m.Data[0] != byte(b.table.Family) || ad.String() != b.table.Name {
				return false
			}
		case elements && ad.Type() == attrElementsSet:
			set = ad.String()
		case elements && ad.Type() == attrElements && strings.HasSuffix(set, connectionsSuffix):
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						for e.Next() {
							if e.Type() == attrElementKey {
								e.Nested(func(key *netlink.AttributeDecoder) error {
									for key.Next() {
										if key.Type() == attrValue {
											b.tampered.add(set, key.Bytes())
										}
									}
									return nil
								})
							}
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	return true
}

// madeBy returns the process that has made a transaction.
func madeBy(m netlink.Message) (by firewall.By) {
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return by
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case attrProcess:
			by.PID = int(ad.Uint32())
		case attrProcessName:
			by.Process = ad.String()
		}
	}
	return by
}

// tampering holds the elements that count connections and that somebody else has changed.
// It may be used from several goroutines.
type tampering struct {
	mu   sync.Mutex
	keys map[string]map[string]bool // by set
}

// maxTampered bounds the elements that are remembered. Grants are fewer.
const maxTampered = 1 << 17

func (t *tampering) add(set string, key []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keys == nil {
		t.keys = map[string]map[string]bool{}
	}
	if t.keys[set] == nil {
		t.keys[set] = map[string]bool{}
	}
	if len(t.keys[set]) < maxTampered {
		t.keys[set][string(key)] = true
	}
}

func (t *tampering) has(set string, key []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.keys[set][string(key)]
}

func (t *tampering) drop(set string, key []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.keys[set], string(key))
}

// portOf returns the port of a netlink socket. The kernel puts it into every message about a
// change that the socket has made.
func portOf(conn *netlink.Conn) (port uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctrl := raw.Control(func(fd uintptr) {
		var at unix.Sockaddr
		if at, err = unix.Getsockname(int(fd)); err != nil {
			return
		}
		port = at.(*unix.SockaddrNetlink).Pid
	})
	return port, errors.Join(ctrl, err)
}

func (b *Backend) signal(by firewall.By) {
	b.stale.Store(true)
	select {
	case b.changed <- by:
	default:
	}
}
