package nft

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/nftables"

	"webknock/firewall"
)

// Print writes a guard as a file for nft(8): the table as [Backend.Guard] writes it, without
// grants and without sessions from before the guard. Loading the file again keeps running
// grants.
func Print(w io.Writer, table string, g firewall.Guard) error {
	b := Backend{table: tableNamed(table)}
	r, err := b.ruleset(g)
	if err != nil {
		return err
	}
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("table inet %s {", table)
	for _, set := range r.sets {
		line("\tset %s { %s }", set.Name, setText(set))
	}
	for _, c := range r.chains {
		line("\tchain %s { %s}", c.Name, chainText(c.Chain))
	}
	line("}")
	for _, c := range r.chains {
		line("flush chain inet %s %s", table, c.Name)
	}
	for _, f := range r.contents {
		line("flush set inet %s %s", table, f.set.Name)
	}
	line("table inet %s {", table)
	for _, f := range r.contents {
		var prefixes []string
		for _, p := range f.networks.Prefixes() {
			prefixes = append(prefixes, p.String())
		}
		if len(prefixes) > 0 {
			line("\tset %s { %s elements = { %s } }", f.set.Name, setText(f.set), strings.Join(prefixes, ", "))
		}
	}
	for _, c := range r.chains {
		line("\tchain %s {", c.Name)
		for _, rule := range c.rules {
			line("\t\t%s", rule)
		}
		line("\t}")
	}
	line("}")
	_, err = io.WriteString(w, s.String())
	return err
}

func setText(s *nftables.Set) string {
	text := "type " + s.KeyType.Name + ";"
	if s.Size > 0 {
		text += fmt.Sprintf(" size %d;", s.Size)
	}
	var flags []string
	for _, flag := range []struct {
		name string
		is   bool
	}{{"interval", s.Interval}, {"dynamic", s.Dynamic}, {"timeout", s.HasTimeout}} {
		if flag.is {
			flags = append(flags, flag.name)
		}
	}
	text += " flags " + strings.Join(flags, ",") + ";"
	if s.HasTimeout {
		text += fmt.Sprintf(" timeout %ds;", s.Timeout/time.Second)
	}
	if s.Counter {
		text += " counter;"
	}
	return text
}

// chainText returns the type, hook and priority of a base chain.
func chainText(c *nftables.Chain) string {
	if c.Hooknum == nil {
		return ""
	}
	hook := map[nftables.ChainHook]string{
		*nftables.ChainHookPrerouting: "prerouting",
		*nftables.ChainHookInput:      "input",
		*nftables.ChainHookForward:    "forward",
		*nftables.ChainHookOutput:     "output",
	}[*c.Hooknum]
	return fmt.Sprintf("type %s hook %s priority %d; policy accept; ", c.Type, hook, *c.Priority)
}
