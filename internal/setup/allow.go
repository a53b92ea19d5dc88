package setup

import (
	"fmt"
	"regexp"
)

var chainOf = regexp.MustCompile(`chain (inet|ip|ip6) (\S+) ([^\s;,)]+)`)

// Allow returns the commands by which other firewalls let clients reach a TCP port.
// Stopped is the doctor's word on what stops them now, which names a chain.
func (f *Facts) Allow(port uint16, stopped string) []string {
	m := chainOf.FindStringSubmatch(stopped)
	switch {
	case f.UFW:
		return []string{fmt.Sprintf("ufw allow %d/tcp", port)}
	case f.Firewalld:
		return []string{fmt.Sprintf("firewall-cmd --permanent --zone=%s --add-port=%d/tcp", f.Zone, port), "firewall-cmd --reload"}
	case m == nil:
		return nil
	case m[1] == "ip" && m[2] == "filter":
		return []string{fmt.Sprintf("iptables -I %s -p tcp --dport %d -j ACCEPT", m[3], port)}
	case m[1] == "ip6" && m[2] == "filter":
		return []string{fmt.Sprintf("ip6tables -I %s -p tcp --dport %d -j ACCEPT", m[3], port)}
	}
	return []string{fmt.Sprintf("nft insert rule %s %s %s tcp dport %d accept    # and the rule into /etc/nftables.conf", m[1], m[2], m[3], port)}
}
