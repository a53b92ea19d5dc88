package front

import (
	"net/netip"
	"slices"
	"time"

	"webknock/firewall"
	"webknock/httpd"
	"webknock/internal/event"
)

// Why a client is banned.
const (
	tooManyKnocks = event.TooManyKnocks
	decoy         = event.Decoy
)

const (
	// againWithin is for how long a head that is the same as the client's previous
	// one counts as that one sent again, for bans and wrong codes. Chromium sends a
	// request that was reset two or three times at once, and again after 1 and 6
	// seconds; Firefox sends it ten times within 10 ms.
	againWithin = 10 * time.Second

	// maxCounted bounds the clients of a shard whose knocks are counted. Under a
	// flood of addresses all are forgotten, and counting begins anew.
	maxCounted = 4096
)

// counts has what the clients of a shard have done that may count against them.
// Where bans are off it has only those that have brought a one-time code.
type counts struct {
	clients map[netip.Prefix]*count
	latest  time.Duration // when the latest knock of one of the clients came
}

func newCounts() counts {
	return counts{clients: map[netip.Prefix]*count{}, latest: -2 * againWithin}
}

// count is what one client has done, and its latest request.
type count struct {
	knocks int           // without a completion, since the time below
	since  time.Duration // when the first of them came
	head   uint64        // hash of the head of the latest request
	at     time.Duration // when that came
}

// watch reports whether it matters for a client's wrong codes that its knock is
// another one than before.
func (c *counts) watch(client netip.Addr, now time.Duration) bool {
	return now-c.latest <= againWithin && c.clients[firewall.Offender(client)] != nil
}

// sentAgain returns the hash of a knock's head, and whether that is the same, to
// the byte, as that of the client's previous knock of the last seconds. It is
// decided before anything is matched, so that it depends on no secret. Where
// nothing is counted it does nothing.
func (s *shard) sentAgain(r *rules, received *httpd.Knock) (head uint64, again bool) {
	if r.ban.Knocks == 0 && !r.oneTime {
		return 0, false
	}
	head = received.Hash(s.all.seed)
	c := s.counts.clients[firewall.Offender(received.Client)]
	if c == nil {
		return head, false
	}
	again = c.head == head && s.latest-c.at <= againWithin
	c.head, c.at, s.counts.latest = head, s.latest, s.latest
	return head, again
}

// count returns the count of a knock's client, which from then on knows the
// client's latest head.
func (k *knock) count() *count {
	all := &k.shard.counts
	client := firewall.Offender(k.received.Client)
	c := all.clients[client]
	if c == nil {
		if len(all.clients) >= maxCounted {
			clear(all.clients)
			k.shard.all.forgotten.Add(maxCounted)
		}
		c = &count{head: k.head, at: k.at}
		all.clients[client], all.latest = c, k.at
	}
	return c
}

// oneMore counts a knock, and reports whether it is one too many.
func (k *knock) oneMore(c *count) bool {
	if c.knocks == 0 || k.at-c.since > k.rules.ban.Within {
		c.knocks, c.since = 0, k.at
	}
	c.knocks++
	return c.knocks >= k.rules.ban.Knocks
}

// offends counts a knock against its client, and returns why that is banned for
// it; empty: it is not. Visitors of a real site bring no one-time codes, so there
// only wrong codes and decoys count. A request that is sent again does not count
// again.
func (k *knock) offends() (reason string) {
	switch {
	case slices.Contains(k.rules.decoys, k.path):
		return decoy
	case k.rules.ban.Knocks == 0 || k.received.ToSite && !k.wrongCode || k.rules.set.Ignores(k.path):
		return ""
	}
	c := k.count()
	switch {
	case len(k.completed) > 0:
		c.knocks = 0
	case k.again:
	case k.oneMore(c):
		c.knocks = 0
		return tooManyKnocks
	}
	return ""
}
