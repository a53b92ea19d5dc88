package suggest

import "testing"

func TestClosest(t *testing.T) {
	words := []string{"ssh", "nas", "printer", "wireguard"}
	for typed, want := range map[string]string{
		"shs": "ssh", "sssh": "ssh", "SSH": "ssh", "ss": "ssh", "x": "", "ftp": "", "nsa": "nas",
		"priner": "printer", "pritner": "printer", "wireguards": "wireguard", "wirguad": "wireguard", "wire": "", "": "",
	} {
		if got := Closest(typed, words); got != want {
			t.Errorf("Closest(%q) = %q, want %q", typed, got, want)
		}
	}
	if got := DidYouMean("shs", words); got != " (did you mean ssh?)" {
		t.Error(got)
	}
	if got := DidYouMean("door", words); got != "" {
		t.Error(got)
	}
}
