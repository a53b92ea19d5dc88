package config

import (
	"fmt"
	"net/netip"
	"strconv"

	"webknock/firewall"
)

// Firewall says what keeps the doors.
type Firewall struct {
	Backend string // BackendNFTables or BackendMemory
	Table   string
	Guard   firewall.Guard
}

// The backends.
const (
	BackendNFTables = "nftables"
	BackendMemory   = "memory" // touches no firewall
)

// firewallSection is the section as it stands in a file.
type firewallSection struct {
	Backend string         `mapstructure:"backend" words:"nftables memory"`
	Mode    string         `mapstructure:"mode" words:"guard sets"`
	Table   string         `mapstructure:"table" is:"table"`
	Mark    mark           `mapstructure:"mark"`
	Owner   bool           `mapstructure:"owner"`
	Allow   []netip.Prefix `mapstructure:"allow"`
}

func defaultFirewall() firewallSection {
	return firewallSection{Backend: BackendNFTables, Mode: "guard", Table: "webknock", Mark: 0x40000000}
}

func (s firewallSection) firewall(doors []firewall.Door) Firewall {
	f := Firewall{Backend: s.Backend, Table: s.Table,
		Guard: firewall.Guard{Doors: doors, Mark: uint32(s.Mark), Owner: s.Owner, Allow: s.Allow}}
	if s.Mode == "sets" {
		f.Guard.Mode = firewall.Sets
	}
	return f
}

func (s *firewallSection) validate(d *decoder) {
	for i, p := range s.Allow {
		if isHuge(p) {
			d.warnAt(fmt.Sprintf("firewall.allow[%d]", i), "%s is a great part of the internet, and all of it passes every door without a knock (your own networks only)", p)
		}
	}
}

// mark is what granted packets are marked with, in decimal or with 0x; 0: they
// are not marked.
type mark uint32

func (m *mark) read(d *decoder, v *value) any {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		d.errorf(v.node, v.key, "%q is not a mark (a number of 32 bits, like 0x40000000; 0 for none)", s)
		return nil
	}
	*m = mark(n)
	return nil
}
