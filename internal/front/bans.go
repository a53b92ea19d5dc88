package front

import (
	"net/netip"
	"slices"
	"time"

	"webknock/firewall"
	"webknock/httpd"
	"webknock/internal/seam"
)

// ban bans the client of a knock. The client's shard calls it, so it does not
// wait.
func (f *Front) ban(k httpd.Knock, reason string) {
	cfg := &f.current.Load().cfg
	client := firewall.Offender(k.Client)
	if slices.ContainsFunc(cfg.Exempt, client.Overlaps) {
		return
	}
	ban := firewall.Ban{Client: client, Until: time.Now().Add(cfg.Ban.For)}
	if !f.shards.bans.Add(ban) {
		f.shards.unbanned.Add(1)
		return
	}
	f.keeper.Ban(seam.Ban{Ban: ban, At: k.At, ViaProxy: k.ViaProxy, Reason: reason})
}

// AdoptBans implements seam.Front.
func (f *Front) AdoptBans(bans []firewall.Ban) {
	for _, b := range bans {
		f.shards.bans.Add(b)
	}
}

// Unban implements seam.Front.
func (f *Front) Unban(client netip.Prefix) { f.shards.bans.Remove(client) }
