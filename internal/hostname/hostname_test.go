package hostname

import (
	"strings"
	"testing"
)

func TestHostNamesAreConvertedToASCII(t *testing.T) {
	for name, want := range map[string]string{
		"home.example.org": "home.example.org", "Home.Example.ORG": "home.example.org", "home.example.org.": "home.example.org",
		"bücher.example": "xn--bcher-kva.example", "BÜCHER.example.": "xn--bcher-kva.example", "bu\u0308cher.example": "xn--bcher-kva.example",
		"例え.テスト": "xn--r8jz45g.xn--zckzah", "bücher。example": "xn--bcher-kva.example", "faß.de": "xn--fa-hia.de",
		"xn--bcher-kva.example": "xn--bcher-kva.example", "my_host": "my_host", "localhost": "localhost", "a": "a",
		strings.Repeat("a", 63) + ".org": strings.Repeat("a", 63) + ".org",
	} {
		if got, err := ASCII(name); got != want || err != nil {
			t.Errorf("ASCII(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"": "not a valid", ".": "not a valid", "a..b": "not a valid", ".a": "not a valid", "-a.org": "not a valid", "a-.org": "not a valid",
		"*.example.org": "wildcard", "*": "wildcard", "a b": "not a valid", "a/b": "not a valid", "a:80": "not a valid", "a..": "not a valid",
		strings.Repeat("a", 64) + ".org": "not a valid", strings.Repeat("a.", 127) + "org": "not a valid", "ü\u200b..x": "not a valid",
	} {
		if got, err := ASCII(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ASCII(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
	for host, want := range map[string]bool{"192.0.2.1": true, "[2001:db8::1]": true, "2001:db8::1": true, "a": false, "1.2.3": false, "": false} {
		if _, ok := Address(host); ok != want {
			t.Errorf("Address(%q): %v", host, ok)
		}
	}
}
