package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Constants of linux/netfilter/nf_tables.h that the library lacks.
const (
	tableOwner   = 0x2 // NFT_TABLE_F_OWNER: only the socket that made it may change it
	tablePersist = 0x4 // NFT_TABLE_F_PERSIST: stays, as an orphan, when that socket is closed

	attrTableName   = 1 // NFTA_TABLE_NAME
	attrTableFlags  = 2 // NFTA_TABLE_FLAGS
	attrTableHandle = 4 // NFTA_TABLE_HANDLE
	attrTableOwner  = 7 // NFTA_TABLE_OWNER

	batchBegin = 0x10 // NFNL_MSG_BATCH_BEGIN
	batchEnd   = 0x11 // NFNL_MSG_BATCH_END
)

// tableInfo describes a table without its contents. A table that was deleted and made
// again has another handle.
type tableInfo struct {
	Handle uint64 // 0: there is no table
	Flags  uint32
	Owner  uint32 // port of the socket that owns it, 0: an orphan, or a plain table
}

func (t tableInfo) owned() bool { return t.Flags&tableOwner != 0 }

// orphan reports whether the owner of the table is gone. The kernel has cleared the owner
// flag, and any process may become the owner.
func (t tableInfo) orphan() bool { return !t.owned() && t.Flags&tablePersist != 0 }

// info reads our table. The caller is within do.
func (b *Backend) info() (t tableInfo, err error) {
	answers, err := b.sock.Execute(b.message(unix.NFT_MSG_GETTABLE, netlink.Request|netlink.Dump))
	if err != nil {
		return t, err
	}
	for _, m := range answers {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return t, err
		}
		ad.ByteOrder = binary.BigEndian
		var found tableInfo
		ours := false
		for ad.Next() {
			switch ad.Type() {
			case attrTableName:
				ours = ad.String() == b.table.Name
			case attrTableFlags:
				found.Flags = ad.Uint32()
			case attrTableHandle:
				found.Handle = ad.Uint64()
			case attrTableOwner:
				found.Owner = ad.Uint32()
			}
		}
		if err := ad.Err(); err != nil {
			return t, err
		}
		if ours {
			return found, nil
		}
	}
	return t, nil
}

// message returns a message about tables of our family.
func (b *Backend) message(kind int, flags netlink.HeaderFlags, attributes ...netlink.Attribute) netlink.Message {
	data, _ := netlink.MarshalAttributes(attributes) // fails only over 64 KiB
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: flags},
		Data:   append([]byte{byte(b.table.Family), unix.NFNETLINK_V0, 0, 0}, data...),
	}
}

// transact sends messages as one transaction. Each message must request an acknowledgement.
func (b *Backend) transact(messages ...netlink.Message) error {
	edge := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	if _, err := b.sock.SendMessages(slices.Concat([]netlink.Message{edge(batchBegin)}, messages, []netlink.Message{edge(batchEnd)})); err != nil {
		return err
	}
	for range messages {
		if _, err := b.sock.Receive(); err != nil {
			return err
		}
	}
	return nil
}

// claim takes over an orphan, so that it can be changed. It fails if another process owns
// the table.
func (b *Backend) claim(t tableInfo) error {
	if !t.owned() || b.claimed {
		return nil
	}
	if t.Owner != 0 {
		return fmt.Errorf("table %s belongs to another process, by its netlink port %d: %w", b.table.Name, t.Owner, syscall.EPERM)
	}
	return b.own()
}

// adopt is claim for a guard that wants an owner.
func (b *Backend) adopt(t tableInfo) error {
	if t.orphan() && !b.claimed {
		return b.own()
	}
	return b.claim(t)
}

// own makes this process the owner of the table, which it creates if there is none.
func (b *Backend) own() error {
	err := b.transact(b.ownedTable())
	b.claimed = err == nil
	return err
}

func (b *Backend) tableName() netlink.Attribute {
	return netlink.Attribute{Type: attrTableName, Data: append([]byte(b.table.Name), 0)}
}

// ownedTable returns the message that creates our table with an owner.
func (b *Backend) ownedTable() netlink.Message {
	return b.message(unix.NFT_MSG_NEWTABLE, netlink.Request|netlink.Acknowledge|netlink.Create, b.tableName(),
		netlink.Attribute{Type: attrTableFlags, Data: binary.BigEndian.AppendUint32(nil, tableOwner|tablePersist)})
}

// prepare returns the connection on which the contents of our table are to be queued, and
// what commits them. It queues what makes the table, with or without an owner; with rebuild
// the one that is there goes in the same transaction.
func (b *Backend) prepare(c *nftables.Conn, owner bool, there tableInfo, rebuild bool) (*nftables.Conn, func() error, error) {
	if err := b.claim(there); err != nil {
		return nil, nil, err
	}
	switch {
	case !owner:
		if rebuild {
			b.claimed = false
			c.DelTable(b.table)
		}
		c.AddTable(b.table)
	case rebuild || there.Handle == 0:
		r := newRecorder()
		return r.Conn, func() error { return b.makeOwned(rebuild, r) }, nil
	case !b.claimed:
		if err := b.own(); err != nil {
			return nil, nil, err
		}
	}
	return c, c.Flush, nil
}

// makeOwned makes a table with an owner, and in the same transaction what was queued on r.
// With rebuild the table that is there goes first.
func (b *Backend) makeOwned(rebuild bool, r *recorder) error {
	contents, err := r.messages()
	if err != nil {
		return err
	}
	var messages []netlink.Message
	if rebuild {
		messages = append(messages, b.message(unix.NFT_MSG_DELTABLE, netlink.Request|netlink.Acknowledge, b.tableName()))
	}
	messages = append(messages, b.ownedTable())
	b.claimed = false
	err = b.transact(append(messages, contents...)...)
	b.claimed = err == nil
	return err
}

// A recorder is a connection of the library that sends nothing. The library cannot make
// tables with an owner, so what it would send goes into a transaction of our own.
type recorder struct {
	*nftables.Conn
	recorded []netlink.Message
}

var errRecorded = errors.New("recorded")

func newRecorder() *recorder {
	r := new(recorder)
	// It fails only for a lasting connection.
	r.Conn, _ = nftables.New(nftables.WithTestDial(func(messages []netlink.Message) ([]netlink.Message, error) {
		if len(messages) > 0 { // else it asks for answers
			r.recorded = messages
		}
		return nil, errRecorded
	}))
	return r
}

// messages returns what was queued, without the edges of the transaction. No message asks
// for an echo, so that each has one answer.
func (r *recorder) messages() ([]netlink.Message, error) {
	if err := r.Flush(); !errors.Is(err, errRecorded) {
		return nil, err // nil: nothing was queued
	}
	contents := r.recorded[1 : len(r.recorded)-1]
	for i := range contents {
		h := &contents[i].Header
		*h = netlink.Header{Type: h.Type, Flags: h.Flags&^netlink.Echo | netlink.Acknowledge}
	}
	return contents, nil
}
