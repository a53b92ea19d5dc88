package firewall

import "net/netip"

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")   // RFC 1122, section 3.2.1.3
	reserved    = netip.MustParsePrefix("240.0.0.0/4") // RFC 1112, section 4, and the broadcast address
)

// ValidClient reports whether packets can come from an address over a network, so
// that a grant for it means anything. It is false for unspecified, loopback,
// multicast, broadcast and reserved addresses, also where an IPv6 address stands
// for an IPv4 one.
func ValidClient(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsLoopback() && !addr.IsMulticast() &&
		!thisNetwork.Contains(addr) && !reserved.Contains(addr)
}
