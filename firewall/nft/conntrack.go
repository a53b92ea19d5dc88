package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// Constants of linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	ctNew    = unix.NFNL_SUBSYS_CTNETLINK << 8   // IPCTNL_MSG_CT_NEW
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	attrTupleOrig  = 1  // CTA_TUPLE_ORIG
	attrTupleReply = 2  // CTA_TUPLE_REPLY
	attrStatus     = 3  // CTA_STATUS
	attrProtoInfo  = 4  // CTA_PROTOINFO
	attrID         = 12 // CTA_ID
	attrZone       = 18 // CTA_ZONE
	attrLabels     = 22 // CTA_LABELS
	attrLabelsMask = 23 // CTA_LABELS_MASK
	attrFilter     = 25 // CTA_FILTER

	filterSource   = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterProtocol = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM

	statusOffloaded = 1 << 14 // IPS_OFFLOAD: a flowtable forwards its packets, which pass no rule

	ctEstablished = 3 // TCP_CONNTRACK_ESTABLISHED
	ctTimeWait    = 7 // TCP_CONNTRACK_TIME_WAIT; CLOSE follows it
)

// A flow is an entry of connection tracking.
type flow struct {
	protocol      firewall.Protocol
	client, asked netip.AddrPort // source and destination of the first packet
	served        netip.AddrPort // the address that answers; it differs from asked after DNAT
	status, id    uint32
	zone          uint16
	state         uint8 // of TCP
	labelled      bool  // a grant's rule has let a packet of it through
}

// conntrack is a netlink connection to the kernel's connection tracking.
type conntrack struct{ *netlink.Conn }

func dialConntrack() (conntrack, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return conntrack{}, err
	}
	conn.SetReadBuffer(sockBuffer)
	return conntrack{conn}, conn.SetDeadline(time.Now().Add(requestTimeout))
}

// message returns a netlink message of a type about flows of IPv4 or IPv6.
func (conntrack) message(kind int, flags netlink.HeaderFlags, v4 bool, attributes func(*netlink.AttributeEncoder)) (netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	attributes(ae)
	data, err := ae.Encode()
	family := byte(unix.AF_INET6)
	if v4 {
		family = unix.AF_INET
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	}, err
}

// flows returns the flows of the clients in a prefix, of one protocol.
func (c conntrack) flows(protocol firewall.Protocol, client netip.Prefix) ([]flow, error) {
	request, err := c.message(ctGet, netlink.Dump, client.Addr().Is4(), func(ae *netlink.AttributeEncoder) {
		flags := uint32(filterProtocol)
		to := netip.AddrPort{}
		if client.IsSingleIP() && client.Addr().Is4() { // for IPv6, this filter of the kernel drops the wanted flows instead of the others
			flags |= filterSource
			to = netip.AddrPortFrom(client.Addr(), 0)
		}
		ae.Nested(attrTupleOrig, tuple(protocol, to, netip.AddrPort{}))
		ae.Nested(attrFilter, func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.NativeEndian
			ae.Uint32(1, flags) // CTA_FILTER_ORIG_FLAGS
			ae.Uint32(2, 0)     // CTA_FILTER_REPLY_FLAGS
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	answers, err := c.Execute(request)
	if err != nil {
		return nil, fmt.Errorf("list tracked connections: %w", err)
	}
	var all []flow
	for _, m := range answers {
		// Kernels before 5.8 ignore the filter and send all flows.
		if f, ok := parseFlow(m.Data); ok && f.protocol == protocol && client.Contains(f.client.Addr()) {
			all = append(all, f)
		}
	}
	return all, nil
}

// find reads the flow with the client, destination and zone of f, and reports whether it
// exists.
func (c conntrack) find(f flow) (flow, bool, error) {
	request, err := c.message(ctGet, 0, f.client.Addr().Is4(), func(ae *netlink.AttributeEncoder) {
		ae.Nested(attrTupleOrig, tuple(f.protocol, f.client, f.asked))
		ae.Uint16(attrZone, f.zone)
	})
	if err != nil {
		return flow{}, false, err
	}
	if _, err = c.Send(request); err == nil {
		f, err = c.receiveOne()
	}
	if errors.Is(err, syscall.ENOENT) {
		return flow{}, false, nil
	}
	if err != nil {
		return flow{}, false, fmt.Errorf("find a tracked connection: %w", err)
	}
	return f, true, nil
}

// receiveOne receives one flow. The kernel marks its answer as one of several messages but
// never sends the final one, for which the netlink library would wait.
func (c conntrack) receiveOne() (f flow, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return f, err
	}
	data := make([]byte, 1<<16)
	n, failed := 0, error(nil)
	if err := raw.Read(func(fd uintptr) bool {
		n, _, failed = unix.Recvfrom(int(fd), data, unix.MSG_DONTWAIT)
		return failed != unix.EAGAIN && failed != unix.EINTR
	}); err != nil {
		return f, err
	}
	if failed != nil {
		return f, failed
	}
	messages, err := syscall.ParseNetlinkMessage(data[:n])
	if err != nil {
		return f, err
	}
	for _, m := range messages {
		if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
			return f, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		}
		if f, ok := parseFlow(m.Data); ok {
			return f, nil
		}
	}
	return f, errors.New("the kernel's answer is not a flow")
}

// delete deletes a flow, unless a newer flow with the same addresses has replaced it.
func (c conntrack) delete(f flow) error {
	request, err := c.message(ctDelete, netlink.Acknowledge, f.client.Addr().Is4(), func(ae *netlink.AttributeEncoder) {
		ae.Nested(attrTupleOrig, tuple(f.protocol, f.client, f.asked))
		ae.Uint32(attrID, f.id)
		ae.Uint16(attrZone, f.zone)
	})
	if err != nil {
		return err
	}
	if _, err = c.Execute(request); errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// unlabel removes our label from a flow.
func (c conntrack) unlabel(f flow) error {
	request, err := c.message(ctNew, netlink.Acknowledge, f.client.Addr().Is4(), func(ae *netlink.AttributeEncoder) {
		ae.Nested(attrTupleOrig, tuple(f.protocol, f.client, f.asked))
		ae.Uint16(attrZone, f.zone)
		ae.Bytes(attrLabels, make([]byte, labelSize))
		ae.Bytes(attrLabelsMask, labelBit(label))
	})
	if err != nil {
		return err
	}
	if _, err = c.Execute(request); errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil // the flow has ended, or the kernel has no labels
	}
	return err
}

// tuple encodes addresses and ports as an attribute of a flow. It leaves out zero values.
func tuple(protocol firewall.Protocol, from, to netip.AddrPort) func(*netlink.AttributeEncoder) error {
	return func(ae *netlink.AttributeEncoder) error {
		if from.Addr().IsValid() {
			ae.Nested(1, func(ae *netlink.AttributeEncoder) error { // CTA_TUPLE_IP
				for i, a := range []netip.Addr{from.Addr(), to.Addr()} {
					kind := uint16(1 + i) // CTA_IP_V4_SRC, CTA_IP_V4_DST
					if a.Is6() {
						kind += 2 // CTA_IP_V6_SRC, CTA_IP_V6_DST
					}
					if a.IsValid() {
						ae.Bytes(kind, a.AsSlice())
					}
				}
				return nil
			})
		}
		ae.Nested(2, func(ae *netlink.AttributeEncoder) error { // CTA_TUPLE_PROTO
			ae.Uint8(1, uint8(protocol)) // CTA_PROTO_NUM
			if from.Port() > 0 || to.Port() > 0 {
				ae.Uint16(2, from.Port()) // CTA_PROTO_SRC_PORT
				ae.Uint16(3, to.Port())   // CTA_PROTO_DST_PORT
			}
			return nil
		})
		return nil
	}
}

// parseFlow decodes a message. It returns false if that is not a flow with ports.
func parseFlow(data []byte) (f flow, ok bool) {
	if len(data) < 4 {
		return f, false
	}
	ad, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return f, false
	}
	ad.ByteOrder = binary.BigEndian
	var answerer, answered netip.AddrPort
	for ad.Next() {
		switch ad.Type() {
		case attrTupleOrig:
			ad.Nested(parseTuple(&f.protocol, &f.client, &f.asked))
		case attrTupleReply:
			ad.Nested(parseTuple(new(firewall.Protocol), &answerer, &answered))
		case attrStatus:
			f.status = ad.Uint32()
		case attrID:
			f.id = ad.Uint32()
		case attrZone:
			f.zone = ad.Uint16()
		case attrLabels: // absent if the flow has no label
			bit := labelBit(label)
			for i, b := range ad.Bytes() {
				f.labelled = f.labelled || i < labelSize && b&bit[i] != 0
			}
		case attrProtoInfo:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if ad.Type() != 1 { // CTA_PROTOINFO_TCP
						continue
					}
					ad.Nested(func(ad *netlink.AttributeDecoder) error {
						for ad.Next() {
							if ad.Type() == 1 { // CTA_PROTOINFO_TCP_STATE
								f.state = ad.Uint8()
							}
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	f.served = answerer
	return f, ad.Err() == nil && f.client.IsValid() && f.asked.IsValid() && f.served.IsValid()
}

func parseTuple(protocol *firewall.Protocol, from, to *netip.AddrPort) func(*netlink.AttributeDecoder) error {
	return func(ad *netlink.AttributeDecoder) error {
		var addrs [2]netip.Addr
		var ports [2]uint16
		for ad.Next() {
			switch ad.Type() {
			case 1: // CTA_TUPLE_IP
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if n := ad.Type(); n >= 1 && n <= 4 {
							addrs[(n-1)%2], _ = netip.AddrFromSlice(ad.Bytes())
						}
					}
					return nil
				})
			case 2: // CTA_TUPLE_PROTO
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						switch ad.Type() {
						case 1:
							*protocol = firewall.Protocol(ad.Uint8())
						case 2, 3:
							ports[ad.Type()-2] = ad.Uint16()
						}
					}
					return nil
				})
			}
		}
		*from, *to = netip.AddrPortFrom(addrs[0], ports[0]), netip.AddrPortFrom(addrs[1], ports[1])
		return nil
	}
}
