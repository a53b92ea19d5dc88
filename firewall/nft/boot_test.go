package nft

import (
	"strings"
	"testing"
)

func TestTheBootIDOfTheUnitIsThatOfProc(t *testing.T) {
	t.Setenv("WEBKNOCK_BOOT_ID", "")
	want, err := thisBoot()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("WEBKNOCK_BOOT_ID", strings.ReplaceAll(want, "-", ""))
	if got, _ := thisBoot(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, wrong := range []string{"x", want, strings.Repeat("g", 32)} {
		t.Setenv("WEBKNOCK_BOOT_ID", wrong)
		if got, _ := thisBoot(); got != want {
			t.Errorf("%q counts as %q", wrong, got)
		}
	}
}
