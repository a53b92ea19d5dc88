package keeper

import (
	"net/netip"
	"testing"

	"webknock/config"
	"webknock/internal/seam"
	"webknock/internal/ticket"
	"webknock/sequence"
)

// A run may have begun under another configuration than that it completes under.
func TestACompletionIsCheckedAgainstTheCurrentConfiguration(t *testing.T) {
	address := ticket.Request{Address: netip.MustParseAddr("198.51.100.7")}
	web := ticket.Request{Doors: []string{"web"}}
	oneTime := config.Sequence{Spec: sequence.Spec{Steps: []sequence.Step{{Trigger: sequence.Template("/t/{ticket}")}}}}
	with := func(change func(*config.Sequence)) *config.Sequence {
		s := oneTime
		s.Opens = []string{"ssh", "web"}
		change(&s)
		return &s
	}
	as := with(func(*config.Sequence) {})
	for _, tt := range []struct {
		name     string
		sequence *config.Sequence
		request  *ticket.Request
		want     bool
	}{
		{"a code", as, nil, true},
		{"a door", as, &web, true},
		{"a door that is not opened any more", with(func(s *config.Sequence) { s.Opens = []string{"ssh"} }), &web, false},
		{"an address", with(func(s *config.Sequence) { s.AllowAddress = true }), &address, true},
		{"an address that is not allowed any more", as, &address, false},
		{"a user that is not admitted any more", with(func(s *config.Sequence) { s.Users = []string{"bob"} }), nil, false},
	} {
		c := seam.Completion{User: "ann", Ticket: tt.request}
		if got := mayComplete(tt.sequence, c) == nil; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
