package firewall

import (
	"net/netip"
	"testing"
)

func TestValidClient(t *testing.T) {
	for address, want := range map[string]bool{
		"192.0.2.7": true, "10.0.0.1": true, "169.254.1.1": true, "1.0.0.0": true, "223.255.255.255": true, "::ffff:192.0.2.7": true,
		"2001:db8::7": true, "fe80::1": true, "fd00::1": true, "::2": true,
		"0.0.0.0": false, "0.1.2.3": false, "127.0.0.1": false, "127.255.255.255": false, "224.0.0.1": false, "239.255.255.255": false,
		"240.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false, "ff02::1": false, "ff0e::1": false,
		"::ffff:0.0.0.0": false, "::ffff:127.0.0.1": false, "::ffff:224.0.0.1": false, "::ffff:255.255.255.255": false,
	} {
		if got := ValidClient(netip.MustParseAddr(address)); got != want {
			t.Errorf("ValidClient(%s) = %v", address, got)
		}
	}
	if ValidClient(netip.Addr{}) {
		t.Error("the zero address is valid")
	}
}
