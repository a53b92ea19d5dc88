package config

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

var rate = regexp.MustCompile(`^(\d{1,6})/(second|minute|hour)$`)

func (d *decoder) shield(n *yaml.Node, key string, cfg *Config) {
	s := &cfg.Shield
	d.mapping(n, key, fields{
		"rate": func(n *yaml.Node, key string) {
			text, ok := d.text(n, key)
			m := rate.FindStringSubmatch(text)
			switch {
			case !ok:
			case text == "off":
				s.Rate = 0
			case m == nil || strings.Trim(m[1], "0") == "":
				d.errorf(n, key, "%q is not a rate (like 20/second or 100/minute, or off)", text)
			default:
				s.Rate, _ = strconv.Atoi(m[1])
				s.Per = map[string]time.Duration{"second": time.Second, "minute": time.Minute, "hour": time.Hour}[m[2]]
			}
		},
		"ban": func(n *yaml.Node, key string) {
			there := d.mapping(n, key, fields{
				"knocks": d.integer(&s.Ban.Knocks, 1, 1_000_000),
				"within": d.duration(&s.Ban.Within, time.Second, 24*time.Hour),
				"for":    d.duration(&s.Ban.For, time.Second, 24*time.Hour),
				"doors":  d.boolean(&s.Ban.Doors),
			})
			d.need(n, key, there, "knocks", "how many ban, like 20")
		},
		"decoys": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				p, ok := d.text(n, key)
				switch {
				case !ok:
				case !d.plainPath(n, key, p):
				default:
					s.Decoys = append(s.Decoys, p)
				}
			})
		},
	})
}

var tableName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

func (d *decoder) mark(to *uint32) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		if !ok {
			return
		}
		v, err := strconv.ParseUint(s, 0, 32)
		if err != nil {
			d.errorf(n, key, "%q is not a mark (a number of 32 bits, like 0x40000000; 0 for none)", s)
			return
		}
		*to = uint32(v)
	}
}

// network reads a prefix, or an address, which is a prefix of one.
func (d *decoder) network(n *yaml.Node, key string) (netip.Prefix, bool) {
	s, ok := d.text(n, key)
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
		p, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	switch {
	case err != nil || p.Addr().Is4In6():
		d.errorf(n, key, "%q is not a network (like 192.168.1.0/24 or 2001:db8::/32)", s)
	case p != p.Masked():
		d.errorf(n, key, "%q has bits set behind its prefix (%s)", s, p.Masked())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}
