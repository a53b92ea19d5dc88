package keeper

import (
	"net/netip"
	"slices"
	"time"

	"webknock/firewall"
	"webknock/httpd"
)

// Why a client is banned.
const (
	tooManyKnocks = "too many knocks without a completion"
	decoy         = "a decoy"
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

// offenders is what the clients of a shard have done that may count against them.
// Where bans are off it has only those that have brought a one-time code.
type offenders struct {
	counts map[netip.Prefix]*count
	head   uint64        // hash of the head of the letter being read, if somebody counts
	latest time.Duration // when the latest letter of a client in counts came
}

func newOffenders() offenders {
	return offenders{counts: map[netip.Prefix]*count{}, latest: -2 * againWithin}
}

// count is what one client has done, and its latest request.
type count struct {
	knocks int           // without a completion, since the time below
	since  time.Duration // of the first of them
	head   uint64        // hash of the head of the latest request
	at     time.Duration // when that came
}

// watches reports whether it matters for its client's wrong codes that a letter is
// another one than before.
func (s *shard) watches(l *httpd.Knock) bool {
	return s.now-s.latest <= againWithin && s.counts[firewall.Offender(l.Client)] != nil
}

// sentAgain reports whether the head of a letter is the same, to the byte, as that
// of the client's previous letter of the last seconds. It is decided before
// anything is matched, so that it depends on no secret.
func (s *shard) sentAgain(l *httpd.Knock) bool {
	if s.rules.ban.Knocks == 0 && !s.rules.oneTime {
		return false // nobody counts
	}
	s.head = l.Hash(s.seed)
	c := s.counts[firewall.Offender(l.Client)]
	if c == nil {
		return false
	}
	again := c.head == s.head && s.now-c.at <= againWithin
	c.head, c.at, s.latest = s.head, s.now, s.now
	return again
}

// count returns the count of the client of the letter being read, which from then on
// knows its latest head.
func (s *shard) count() *count {
	client := firewall.Offender(s.letter.Client)
	c := s.counts[client]
	if c == nil {
		if len(s.counts) >= maxCounted {
			clear(s.counts)
			s.forgotten.Add(maxCounted)
		}
		c = &count{head: s.head, at: s.now}
		s.counts[client], s.latest = c, s.now
	}
	return c
}

// counted counts a knock, and reports whether it is one too many.
func (s *shard) counted(c *count) bool {
	if c.knocks == 0 || s.now-c.since > s.rules.ban.Within {
		c.knocks, c.since = 0, s.now
	}
	c.knocks++
	return c.knocks >= s.rules.ban.Knocks
}

// offends counts a knock against its client, and returns why that is banned for
// it; empty: it is not. It is asked after what the knock completes is known, and
// whether it brought a wrong one-time code: visitors of a site bring none. A
// request that is sent again does not count again.
func (s *shard) offends(path string, completed, wrong bool) (reason string) {
	switch {
	case slices.Contains(s.rules.decoys, path):
		return decoy
	case s.rules.ban.Knocks == 0 || s.letter.ToSite && !wrong || s.rules.set.Ignores(path):
		return ""
	}
	c := s.count()
	switch {
	case completed:
		c.knocks = 0
	case s.again:
	case s.counted(c):
		c.knocks = 0
		return tooManyKnocks
	}
	return ""
}
