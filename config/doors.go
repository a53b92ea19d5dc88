package config

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"webknock/firewall"
)

const (
	minTTL    = time.Second
	maxTTL    = 24 * time.Hour
	maxWithin = 24 * time.Hour
)

func (d *decoder) door(n *yaml.Node, key string, cfg *Config, seen *names) {
	door := firewall.Door{TTL: 30 * time.Second, MaxGrants: 1024, Prefix4: 32, Prefix6: 128}
	there := d.mapping(n, key, fields{
		"name": func(n *yaml.Node, key string) {
			d.named(&door.Name, seen)(n, key)
			if door.Name == "before" {
				d.errorf(n, key, `"before" is taken by webknock itself (another name)`)
			}
		},
		"ports": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) { d.ports(n, key, cfg, &door) })
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.errorf(n, key, "is empty (at least one, like 22/tcp)")
			}
		},
		"ttl":     d.duration(&door.TTL, minTTL, maxTTL),
		"max_ttl": d.duration(&door.MaxTTL, minTTL, maxTTL),
		"established": func(n *yaml.Node, key string) {
			word := "keep"
			d.oneOf(&word, "keep", "cut")(n, key)
			if word == "cut" {
				door.Established = firewall.Cut
			}
		},
		"max_grants":  d.integer(&door.MaxGrants, 1, 65536),
		"connections": d.integer(&door.Connections, 0, 65536),
		"forward": func(n *yaml.Node, key string) {
			s, ok := d.text(n, key)
			to, err := netip.ParseAddrPort(s)
			switch {
			case !ok:
			case err != nil || to.Port() == 0 || to.Addr().Zone() != "" || to.Addr().IsUnspecified() || to.Addr().IsLoopback() ||
				to.Addr().IsMulticast() || to.Addr().Unmap().IsLoopback() || to.Addr().Unmap().IsUnspecified() || to.Addr().Unmap() == broadcast:
				d.errorf(n, key, "%q is not the address of another host (address:port, like 10.0.0.5:22 or [2001:db8::5]:22)", s)
			default:
				door.Forward = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
			}
		},
		"prefix": func(n *yaml.Node, key string) {
			d.mapping(n, key, fields{"ipv4": d.integer(&door.Prefix4, 8, 32), "ipv6": d.integer(&door.Prefix6, 16, 128)})
		},
	})
	d.need(n, key, there, "name", "like ssh")
	d.need(n, key, there, "ports", "at least one, like [22/tcp]")
	if n := there.at("ports"); n != nil && isNull(n) {
		d.errorf(n, key+".ports", "is empty (at least one, like 22/tcp)")
	}
	seen.incomplete = seen.incomplete || door.Name == ""
	if door.MaxTTL > 0 && door.MaxTTL < door.TTL && !there.meant["ttl"] && !d.wrong(key+".ttl") {
		d.errorAt(key+".max_ttl", "%v is less than the door's ttl %v (at least that)", door.MaxTTL, door.TTL)
	}
	door.MaxTTL = max(door.MaxTTL, door.TTL)
	cfg.Doors = append(cfg.Doors, door)
}

var ports = regexp.MustCompile(`^(\d{1,5})(?:-(\d{1,5}))?/(tcp|udp)$`)

func (d *decoder) ports(n *yaml.Node, key string, cfg *Config, door *firewall.Door) {
	s, ok := d.text(n, key)
	if !ok {
		return
	}
	m := ports.FindStringSubmatch(s)
	if m == nil {
		d.errorf(n, key, "%q is not a valid port (like 22/tcp or 60000-61000/udp)", s)
		return
	}
	first, _ := strconv.Atoi(m[1])
	last, _ := strconv.Atoi(cmp.Or(m[2], m[1]))
	if first < 1 || last > 65535 || last < first {
		d.errorf(n, key, "%q is not a valid range of ports (1 to 65535, the lower one first)", s)
		return
	}
	p := firewall.Ports{Protocol: firewall.TCP, First: uint16(first), Last: uint16(last)}
	if m[3] == "udp" {
		p.Protocol = firewall.UDP
	}
	for _, other := range append(slices.Clone(cfg.Doors), *door) {
		for _, o := range other.Ports {
			if o.Protocol == p.Protocol && o.First <= p.Last && p.First <= o.Last {
				d.errorf(n, key, "%s is in door %q already, as %s (each port in one door)", s, other.Name, o)
				return
			}
		}
	}
	door.Ports = append(door.Ports, p)
}
