package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"webknock/firewall"
)

// doorSection is a door as it stands in a file.
type doorSection struct {
	Name        string           `mapstructure:"name" is:"name" required:"like ssh"`
	Ports       []firewall.Ports `mapstructure:"ports" required:"at least one, like [22/tcp]"`
	TTL         time.Duration    `mapstructure:"ttl" limits:"1s..24h"`
	MaxTTL      time.Duration    `mapstructure:"max_ttl" limits:"1s..24h"`
	Established string           `mapstructure:"established" words:"keep cut"`
	MaxGrants   int              `mapstructure:"max_grants" limits:"1..65536"`
	Connections int              `mapstructure:"connections" limits:"0..65536"`
	Forward     netip.AddrPort   `mapstructure:"forward"`
	Prefix      prefixes         `mapstructure:"prefix"`
}

// prefixes is how many bits of a client's address a grant covers.
type prefixes struct {
	IPv4 int `mapstructure:"ipv4" limits:"8..32"`
	IPv6 int `mapstructure:"ipv6" limits:"16..128"`
}

func (s *doorSection) setDefaults() {
	*s = doorSection{TTL: 30 * time.Second, Established: "keep", MaxGrants: 1024, Prefix: prefixes{IPv4: 32, IPv6: 128}}
}

func (s *doorSection) door() firewall.Door {
	door := firewall.Door{Name: s.Name, Ports: s.Ports, TTL: s.TTL, MaxTTL: max(s.MaxTTL, s.TTL), MaxGrants: s.MaxGrants,
		Connections: s.Connections, Forward: s.Forward, Prefix4: s.Prefix.IPv4, Prefix6: s.Prefix.IPv6}
	if s.Established == "cut" {
		door.Established = firewall.Cut
	}
	return door
}

// validateDoors returns the doors, and adds their names to seen.
func (d *decoder) validateDoors(sections []doorSection, seen *names) (doors []firewall.Door) {
	for i := range sections {
		sections[i].validate(d, fmt.Sprintf("doors[%d]", i), sections[:i], seen)
		doors = append(doors, sections[i].door())
	}
	d.finish(seen)
	return doors
}

func (s *doorSection) validate(d *decoder, key string, others []doorSection, seen *names) {
	d.newName(key, s.Name, seen)
	if s.Name == "before" {
		d.errorAt(key+".name", `"before" is taken by webknock itself (another name)`)
	}
	there := d.keys[key]
	if there.at("ports") != nil && len(s.Ports) == 0 && !d.wrong(key+".ports") {
		d.errorAt(key+".ports", "is empty (at least one, like 22/tcp)")
	}
	for i, p := range s.Ports {
		s.validatePorts(d, fmt.Sprintf("%s.ports[%d]", key, i), p, s.Ports[:i], others)
	}
	if s.Prefix.IPv4 < 16 || s.Prefix.IPv6 < 32 {
		d.warnAt(key+".prefix", "one knock lets a great part of the internet in (from 16 for IPv4 and from 32 for IPv6)")
	}
	if s.MaxTTL > 0 && s.MaxTTL < s.TTL && !there.misspelled["ttl"] && !d.wrong(key+".ttl") {
		d.errorAt(key+".max_ttl", "%v is less than the door's ttl %v (write at least that)", s.MaxTTL, s.TTL)
	}
}

// validatePorts compares ports with those before them in the same door and with
// those of other doors.
func (s *doorSection) validatePorts(d *decoder, key string, p firewall.Ports, before []firewall.Ports, others []doorSection) {
	overlaps := func(o firewall.Ports) bool {
		return o.Protocol == p.Protocol && o.First <= p.Last && p.First <= o.Last
	}
	for _, door := range append(slices.Clone(others), doorSection{Name: s.Name, Ports: before}) {
		if i := slices.IndexFunc(door.Ports, overlaps); i >= 0 && !d.wrong(key) {
			d.errorAt(key, "%s is in door %q already, as %s (put each port into one door only)", d.place(key).Value, door.Name, door.Ports[i])
			return
		}
	}
}

var portsForm = regexp.MustCompile(`^(\d{1,5})(?:-(\d{1,5}))?/(tcp|udp)$`)

// ports reads a port or a range of ports, with its protocol.
func (d *decoder) ports(v *value) any {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	m := portsForm.FindStringSubmatch(s)
	if m == nil {
		d.errorf(v.node, v.key, "%q is not a valid port (like 22/tcp or 60000-61000/udp)", s)
		return nil
	}
	first, _ := strconv.Atoi(m[1])
	last, _ := strconv.Atoi(cmp.Or(m[2], m[1]))
	if first < 1 || last > 65535 || last < first {
		d.errorf(v.node, v.key, "%q is not a valid range of ports (1 to 65535, the lower one first)", s)
		return nil
	}
	p := firewall.Ports{Protocol: firewall.TCP, First: uint16(first), Last: uint16(last)}
	if m[3] == "udp" {
		p.Protocol = firewall.UDP
	}
	return p
}
