package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// monitor passes on that somebody else has changed the ruleset, until ctx is
// done. The kernel's events are only a hint: they may be lost, and tell nothing
// of what has changed.
func (b *Backend) monitor(ctx context.Context) {
	defer close(b.done)
	for ctx.Err() == nil {
		if err := b.watch(ctx); err != nil {
			b.log.Debug("nftables: cannot watch for changes", "error", err)
		}
		b.signal() // something may have happened unseen
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// generation is the message by which the kernel tells of the end of each
// transaction. Of what was in it, and of grants by the thousand, there are
// messages of their own, which need not be read.
const generation = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN

// watch signals every transaction of others until events are lost or ctx is
// done.
func (b *Backend) watch(ctx context.Context) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	var message [2]byte
	binary.NativeEndian.PutUint16(message[:], generation)
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 2}, // the type of the message (netlink(7)), as if it were big-endian
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(message[:])), SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	if err := conn.SetBPF(filter); err != nil {
		return fmt.Errorf("set a filter: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return err
	}
	b.signal() // what happened before is unseen
	for {
		messages, err := conn.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.PID != b.port.Load() {
				b.signal()
			}
		}
	}
}

// portOf returns the number by which the kernel tells a netlink socket from
// others: in every message of a transaction it names the one that made it.
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

func (b *Backend) signal() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}
