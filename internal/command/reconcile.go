package command

import (
	"webknock/firewall"
)

// Reconcile makes the journal right after events were missed. Grants are all that
// the firewall holds: those that are new begin, and those that are not among them
// have ended.
func (j *Journal) Reconcile(grants []firewall.Grant) {
	held := map[string]bool{}
	for _, g := range grants {
		held[g.ID] = true
		j.Began(g)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.records {
		if r.Reason == "" && !held[r.Grant] {
			j.end(r, firewall.Expired)
		}
	}
}
