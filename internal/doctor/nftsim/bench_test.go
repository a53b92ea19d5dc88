package nftsim

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkFollow follows a packet through 400 rules that ask for an address and
// a port.
func BenchmarkFollow(b *testing.B) {
	var text strings.Builder
	text.WriteString("table ip nat { chain pre { type nat hook prerouting priority dstnat;\n")
	for i := range 400 {
		fmt.Fprintf(&text, "ip daddr 10.96.1.%d tcp dport %d dnat to 172.17.0.2:80\n", i%250, 1000+i)
	}
	text.WriteString("}\n}\n")
	r := load(b, text.String())
	for b.Loop() {
		r.Follow(syn(22), Options{Host: testHost()})
	}
}
