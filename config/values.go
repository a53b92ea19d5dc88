package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"webknock/internal/suggest"
)

// The methods here read a scalar of the file for the hook. They return nil for
// what is wrong, after they have reported it.

// text returns the text of a scalar. Others are reported.
func (d *decoder) text(v *value) (string, bool) {
	switch {
	case v.node.Kind == yaml.MappingNode:
		d.errorf(v.node, v.key, "is a mapping, and a text is wanted (quote what holds braces)")
	case v.node.Kind == yaml.SequenceNode:
		d.errorf(v.node, v.key, "is a list, and a text is wanted (quote what holds brackets)")
	case isNull(v.node):
		d.errorf(v.node, v.key, "is empty, and a text is wanted (leave the key out, or quote '' for an empty one)")
	default:
		return v.node.Value, true
	}
	return "", false
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// str reads a text, by the tags words and is of its field.
func (d *decoder) str(v *value) any {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	if words, ok := v.tag.Lookup("words"); ok {
		if !d.isWord(v, s, strings.Fields(words)) {
			return nil
		}
	}
	if name, ok := v.tag.Lookup("is"); ok && forms[name].read != nil {
		return forms[name].read(d, v, s)
	}
	return s
}

// isWord reports whether a text is one of the words. If not, that is an error.
func (d *decoder) isWord(v *value, s string, words []string) bool {
	if slices.Contains(words, s) {
		return true
	}
	d.errorf(v.node, v.key, "%q is unknown (%s)", s, oneOfWords(s, words))
	return false
}

// oneOfWords returns which of the words may have been meant, or all of them.
func oneOfWords(word string, words []string) string {
	if best := suggest.Closest(word, words); best != "" {
		return "did you mean " + best + "?"
	}
	return "one of " + strings.Join(words, ", ")
}

func (d *decoder) boolean(v *value) any {
	s, ok := d.text(v)
	switch {
	case !ok:
		return nil
	case s == "true" || s == "false":
		return s == "true"
	}
	d.errorf(v.node, v.key, "%q is not a boolean (true or false)", s)
	return nil
}

func (d *decoder) integer(v *value) any {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	least, most, _ := strings.Cut(v.tag.Get("limits"), "..")
	i, err := strconv.Atoi(s)
	if err != nil || i < must(strconv.Atoi(least)) || i > must(strconv.Atoi(most)) {
		d.errorf(v.node, v.key, "%q is not a number from %s to %s", s, least, most)
		return nil
	}
	return i
}

func (d *decoder) duration(v *value) any {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	shortest, longest, _ := strings.Cut(v.tag.Get("limits"), "..")
	least, most := must(time.ParseDuration(shortest)), must(time.ParseDuration(longest))
	if _, err := strconv.ParseFloat(s, 64); err == nil && !(s == "0" && least == 0) {
		d.errorf(v.node, v.key, "%s has no unit (write a duration like %ss)", s, s)
		return nil
	}
	t, err := time.ParseDuration(s)
	switch {
	case err != nil:
		d.errorf(v.node, v.key, "%q is not a duration (write one like 30s or 1m30s)", s)
	case t < least || t > most:
		d.errorf(v.node, v.key, "%v is out of range (%v to %v)", t, least, most)
	default:
		return t
	}
	return nil
}

// must returns a value of a tag. It panics if the tag is malformed, which is a bug of this
// package.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// network reads a network like 192.0.2.0/24, or an address, which is a network of
// one.
func (d *decoder) network(v *value) any {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	p, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
		p, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	switch {
	case err != nil || p.Addr().Is4In6():
		d.errorf(v.node, v.key, "%q is not a network (like 192.168.1.0/24 or 2001:db8::/32)", s)
	case p != p.Masked():
		d.errorf(v.node, v.key, "%q has bits set after its prefix (write %s)", s, p.Masked())
	default:
		return p
	}
	return nil
}

// isHuge reports whether a network holds a great part of the internet.
func isHuge(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 16
}
