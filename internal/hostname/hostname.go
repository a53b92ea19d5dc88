// Package hostname writes host names in the one form in which they are compared.
package hostname

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"golang.org/x/net/idna"
)

var valid = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// ASCII returns a host name in lower case, with letters beyond ASCII encoded
// (IDNA 2008, so that bücher.example is xn--bcher-kva.example), and without a
// trailing dot. An error completes a sentence that begins with the name.
func ASCII(name string) (string, error) {
	host := strings.ToLower(strings.TrimSuffix(name, "."))
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		encoded, err := idna.Lookup.ToASCII(host)
		if err != nil {
			return "", fmt.Errorf("is not a valid host name (letters, digits and hyphens, like home.example.org)")
		}
		host = strings.TrimSuffix(encoded, ".") // of other full stops, like 。
	}
	switch {
	case strings.Contains(host, "*"):
		return "", fmt.Errorf("is a wildcard, which stands for itself alone here (list each host name)")
	case len(host) > 253 || !valid.MatchString(host):
		return "", fmt.Errorf("is not a valid host name (letters, digits and hyphens, like home.example.org)")
	}
	return host, nil
}

// Address returns the IP address that a host is, with or without brackets, or
// false if it is a name.
func Address(host string) (netip.Addr, bool) {
	if inside, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inside, "]")
	}
	addr, err := netip.ParseAddr(host)
	return addr, err == nil
}
