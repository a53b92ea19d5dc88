package nft

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// commentVersion begins the comment of an element. Then follow key=value pairs: when the
// grant ends (ms of CLOCK_BOOTTIME, clock_gettime(2)) and in which boot, its id, when it was
// opened (Unix time in ms), its sequence and user, and its packets and bytes at the last
// renewal, since a renewal creates a new element with a new counter.
//
// The comment says when the grant ends because loading a saved ruleset restarts the
// element's timeout. The comment stays the same then, and neither setting the clock nor
// suspending the machine changes the time in it.
const (
	commentVersion = "webknock2"
	// earlierVersion did not say when the grant ends.
	earlierVersion = "webknock1"
)

// moment is a time by both clocks that matter here.
type moment struct {
	wall time.Time     // with Go's monotonic clock, which stands still while the machine is suspended
	boot time.Duration // CLOCK_BOOTTIME, which does not
}

func clock() moment { return moment{time.Now(), BootTime()} }

// BootTime returns how long ago the machine was booted, suspends included.
func BootTime() time.Duration { return readClock(unix.CLOCK_BOOTTIME) }

func readClock(id int32) time.Duration {
	var t unix.Timespec
	unix.ClockGettime(id, &t) // fails only for a clock that there is not
	return time.Duration(t.Nano())
}

// Asleep implements firewall.Backend.
func (b *Backend) Asleep() time.Duration { return BootTime() - readClock(unix.CLOCK_MONOTONIC) }

// BootID returns eight digits that identify this boot of the machine.
func BootID() string { return bootID }

var bootID = func() string {
	id, _ := thisBoot() // without it, all boots look the same
	return id[:min(len(id), 8)]
}()

// thisBoot returns the ID of this boot of the machine, as /proc has it. In a container,
// another mount of /proc than that of its start may have the ID of its host's boot: the
// unit's sandbox may make such a mount, and sets WEBKNOCK_BOOT_ID, as sd-id128(3) writes it.
func thisBoot() (string, error) {
	if id := os.Getenv("WEBKNOCK_BOOT_ID"); len(id) == 32 && strings.Trim(id, "0123456789abcdef") == "" {
		return strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-"), nil
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// comment returns the comment of a grant's element. A thousand may be written in one
// transaction, so it takes one allocation.
func comment(g firewall.Grant, now moment) string {
	s := appendMark(make([]byte, 0, maxComment), g.Expires, now)
	add := func(key, value string) {
		if value != "" {
			s = append(append(s, key...), clean(value)...)
		}
	}
	add(" id=", g.ID)
	s = strconv.AppendInt(append(s, " at="...), g.Opened.UnixMilli(), 10)
	add(" seq=", g.Sequence)
	add(" user=", g.User)
	if g.Packets > 0 {
		s = strconv.AppendUint(append(s, " p="...), g.Packets, 10)
		s = strconv.AppendUint(append(s, " b="...), g.Bytes, 10)
	}
	return string(s)
}

// maxComment is the greatest length of a comment of ours. The kernel accepts 253 bytes.
const maxComment = 256

// appendMark appends the beginning of every comment of ours.
func appendMark(s []byte, end time.Time, now moment) []byte {
	s = strconv.AppendInt(append(s, commentVersion+" end="...), (now.boot + end.Sub(now.wall)).Milliseconds(), 10)
	return append(append(s, " boot="...), bootID...)
}

// clean replaces the characters that would end the value or the comment. Valid names stay
// as they are.
func clean(value string) string {
	unsafe := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }
	if strings.ContainsFunc(value, unsafe) {
		value = strings.Map(func(r rune) rune {
			if unsafe(r) {
				return '?'
			}
			return r
		}, value)
	}
	return value[:min(len(value), 32)]
}

// parseComment sets the fields of h that the comment holds, and its Origin. An element
// without our comment, or with one from another boot, is foreign.
func parseComment(comment string, h *firewall.Held, now moment) {
	fields := strings.Fields(comment)
	if len(fields) == 0 || fields[0] != commentVersion && fields[0] != earlierVersion {
		return
	}
	g := h.Grant
	var end time.Duration
	boot, opened := "", time.Time{}
	for _, field := range fields[1:] {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "id":
			g.ID = value
		case "end":
			if ms, err := strconv.ParseInt(value, 10, 64); err == nil {
				end = time.Duration(ms) * time.Millisecond
			}
		case "boot":
			boot = value
		case "seq":
			g.Sequence = value
		case "user":
			g.User = value
		case "at":
			if ms, err := strconv.ParseInt(value, 10, 64); err == nil {
				opened = time.UnixMilli(ms)
				g.Opened = opened
			}
		case "p":
			g.Packets, _ = strconv.ParseUint(value, 10, 64)
		case "b":
			g.Bytes, _ = strconv.ParseUint(value, 10, 64)
		}
	}
	switch {
	case fields[0] == commentVersion && boot == bootID && end > 0:
		g.Expires = now.wall.Add(end - now.boot)
		h.Grant, h.Origin = g, firewall.Ours
	case fields[0] == earlierVersion && opened.After(now.wall.Add(-now.boot)):
		h.Grant, h.Origin = g, firewall.Earlier
	}
}
