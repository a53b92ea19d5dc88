package setup

import (
	"cmp"
	"fmt"
	"regexp"
)

var chainOf = regexp.MustCompile(`chain (inet|ip|ip6) (\S+) ([^\s;,)]+)`)

// Allow returns the commands by which other firewalls let clients reach a TCP port.
// Stopped is the doctor's word on what stops them now, which names a chain.
func (f *Facts) Allow(port uint16, stopped string) []string {
	m := chainOf.FindStringSubmatch(stopped)
	if m == nil {
		m = []string{"", "", "filter", ""} // not known: as if it were the other firewall's
	}
	family, table, chain := m[1], m[2], m[3]
	switch {
	case table == "filter" && family != "inet" && f.UFW:
		return []string{fmt.Sprintf("ufw allow %d/tcp", port)}
	case table == "firewalld", table == "filter" && family != "inet" && f.Firewalld:
		return []string{fmt.Sprintf("firewall-cmd --permanent --zone=%s --add-port=%d/tcp", orPublic(f.Zone), port), "firewall-cmd --reload"}
	case family == "":
		return nil
	case family == "ip" && table == "filter":
		return []string{fmt.Sprintf("iptables -I %s -p tcp --dport %d -j ACCEPT", chain, port)}
	case family == "ip6" && table == "filter":
		return []string{fmt.Sprintf("ip6tables -I %s -p tcp --dport %d -j ACCEPT", chain, port)}
	}
	return []string{fmt.Sprintf("nft insert rule %s %s %s tcp dport %d accept    # and the rule into /etc/nftables.conf", family, table, chain, port)}
}

// orPublic returns firewalld's default zone, which is public if nothing says otherwise.
func orPublic(zone string) string { return cmp.Or(zone, "public") }
