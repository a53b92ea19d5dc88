package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/seam"
)

func TestAdviceIsAboutWhatGoesWrong(t *testing.T) {
	const text = file + `
firewall: {allow: [198.51.100.0/24]}
clients: {max: 5}
`
	cfg := parse(t, strings.Replace(text, `"127.0.0.1:1"`, `"127.0.0.1:1", proxies: [10.0.0.1/32], client_address: x-forwarded-for`, 1))
	now := time.Now()
	knocks := func(causes ...seam.Cause) (all []seam.Recalled) {
		for _, cause := range causes {
			all = append(all, seam.Recalled{Knock: event.Knock{At: now, Sequence: "ssh", Step: 2, Steps: 3}, Cause: cause})
		}
		return all
	}
	grant := firewall.Grant{Door: "ssh", Expires: now.Add(time.Hour)}
	used := grant
	used.Packets = 7
	full := fmt.Errorf("door ssh is full (max_grants 1): %w", firewall.ErrFull)
	for _, tt := range []struct {
		name string
		x    explanation
		want string
	}{
		{"never knocked", explanation{since: time.Date(2026, 1, 31, 12, 0, 0, 0, time.Local)}, "no knock came from this address since 2026-01-31 12:00:00: is a proxy or NAT in between, or does the rate limit (shield.rate) hold it off? listeners are 127.0.0.1:1 (http)"},
		{"allowed", explanation{address: netip.MustParseAddr("198.51.100.7")}, "firewall.allow has this address"},
		{"a proxy", explanation{address: netip.MustParseAddr("10.0.0.1")}, "this address is a proxy's"},
		{"banned", explanation{recent: seam.Recent{Knocks: knocks(seam.Banned, seam.NoStep), BannedUntil: now.Add(time.Minute)}}, "webknock unban 192.0.2.7 lifts that"},
		{"let in, but not there", explanation{grants: []firewall.Grant{grant}, counting: true}, "does the client connect from this address"},
		{"let in", explanation{grants: []firewall.Grant{used}, counting: true}, "look at the service behind the door"},
		{"let in, uncounted", explanation{grants: []firewall.Grant{grant}}, "look at the service behind the door"},
		{"a full door", explanation{recent: seam.Recent{Knocks: knocks(seam.Completed)}, refused: []error{full}}, "raise max_grants"},
		{"refused", explanation{recent: seam.Recent{Knocks: knocks(seam.Completed)}, refused: []error{errors.New("x")}}, "the log says so"},
		{"unguarded", explanation{recent: seam.Recent{Knocks: knocks(seam.Completed)}, refused: []error{firewall.ErrUnguarded}}, "webknock reload"},
		{"over", explanation{recent: seam.Recent{Knocks: knocks(seam.Completed)}, refused: []error{nil}}, "its grant has ended"},
		{"by a proxy", explanation{recent: seam.Recent{Knocks: []seam.Recalled{{Knock: event.Knock{Sequence: "ssh"}, Cause: seam.Completed, ViaProxy: true}}}, refused: []error{nil}}, "come through a proxy"},
		{"on the way", explanation{recent: seam.Recent{Knocks: knocks(seam.Reached), Progress: []seam.Client{{Sequence: "ssh", Step: 2, Expires: now}}}}, "step 3 of ssh is awaited until"},
		{"stopped on the way", explanation{recent: seam.Recent{Knocks: knocks(seam.Reached)}}, "after step 2 of ssh nothing more came in time"},
		{"wrong order", explanation{recent: seam.Recent{Knocks: knocks(seam.WrongOrder, seam.Reached)}}, "in their order"},
		{"a browser's request after a mistake", explanation{recent: seam.Recent{Knocks: knocks(seam.NoStep, seam.IgnoredPath, seam.LateWithin)}}, "a longer within"},
		{"late for the window", explanation{recent: seam.Recent{Knocks: knocks(seam.LateWindow)}}, "a longer window"},
		{"started over", explanation{recent: seam.Recent{Knocks: knocks(seam.StartedOver)}}, "under ignore"},
		{"in clear", explanation{recent: seam.Recent{Knocks: knocks(seam.WrongScheme)}}, "the path is right, its scheme is not: request step 2 of ssh"},
		{"a wrong code", explanation{recent: seam.Recent{Knocks: knocks(seam.WrongCode)}}, "compare the clocks"},
		{"a wrong clock", explanation{recent: seam.Recent{Knocks: knocks(seam.WrongTime)}}, "a ticket counts for 60 seconds"},
		{"a wrong user", explanation{recent: seam.Recent{Knocks: knocks(seam.WrongUser)}}, "the code is good"},
		{"wrong codes", explanation{recent: seam.Recent{Knocks: knocks(seam.TooManyCode)}}, "wait a minute"},
		{"a used code", explanation{recent: seam.Recent{Knocks: knocks(seam.UsedCode)}}, "each counts once"},
		{"too many clients", explanation{recent: seam.Recent{Knocks: knocks(seam.Untracked)}}, "clients.max (5) is reached"},
		{"cookies", explanation{recent: seam.Recent{Knocks: knocks(seam.HeadTooLong)}}, "delete the cookies"},
		{"no Host", explanation{recent: seam.Recent{Knocks: knocks(seam.NoHost)}}, "send a Host field"},
		{"nonsense", explanation{recent: seam.Recent{Knocks: knocks(seam.Malformed)}}, "speak HTTP/1.1"},
		{"a prefetch", explanation{recent: seam.Recent{Knocks: knocks(seam.Prefetch)}}, "open the page itself"},
		{"a wrong path", explanation{recent: seam.Recent{Knocks: knocks(seam.NoStep, seam.NoStep)}}, "webknock explain 192.0.2.7 --reveal"},
		{"nothing that counts", explanation{recent: seam.Recent{Knocks: knocks(seam.IgnoredPath, seam.IgnoredPath)}}, "none of its knocks counts"},
	} {
		tt.x.cfg = cfg
		if !tt.x.address.IsValid() {
			tt.x.address = netip.MustParseAddr("192.0.2.7")
		}
		for len(tt.x.refused) < len(tt.x.recent.Knocks) {
			tt.x.refused = append(tt.x.refused, nil)
		}
		if got := tt.x.advice(); !strings.Contains(got, tt.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestRefusalsAreBoundedAndFoundByTheirKnock(t *testing.T) {
	var r refusals
	client, at := netip.MustParseAddr("192.0.2.7"), time.Now()
	r.add(refusedCompletion{client, "ssh", at, firewall.ErrFull})
	prefix := netip.MustParsePrefix("192.0.2.0/24")
	if err := r.of(prefix, "ssh", at.Round(0).UTC()); !errors.Is(err, firewall.ErrFull) {
		t.Errorf("got %v", err)
	}
	if r.of(prefix, "other", at) != nil || r.of(prefix, "ssh", at.Add(1)) != nil || r.of(netip.MustParsePrefix("192.0.3.0/24"), "ssh", at) != nil {
		t.Error("found by another knock")
	}
	for range maxRefusals {
		r.add(refusedCompletion{client, "new", at, firewall.ErrFull})
	}
	if r.of(prefix, "ssh", at) != nil || len(r.ring) != maxRefusals {
		t.Errorf("%d are remembered", len(r.ring))
	}
}

// lying is a front that was taken over.
type lying struct {
	seam.Front
	says seam.Recent
}

func (l lying) Recent(context.Context, netip.Addr) (seam.Recent, error) { return l.says, nil }

func TestWhatAnHonestFrontWouldNotRememberIsLeftOut(t *testing.T) {
	k, now := new(Keeper), time.Now()
	k.config.Store(parse(t, file))
	client := netip.MustParsePrefix("192.0.2.7/32")
	good := event.Knock{At: now.Add(-time.Hour), Outcome: event.Missed, Why: "matches no step"}
	says := seam.Recent{Client: netip.MustParsePrefix("203.0.113.1/32"), Progress: []seam.Client{{Client: client, Sequence: "none"}, {Client: client, Sequence: "ssh"}}}
	for _, change := range []func(*event.Knock){
		func(k *event.Knock) {},
		func(k *event.Knock) { k.Why = "\x1b[2J" },
		func(k *event.Knock) { k.Outcome = "opened" },
		func(k *event.Knock) { k.At = now.Add(24 * time.Hour) },
		func(k *event.Knock) { k.Step = 7 },
	} {
		knock := good
		change(&knock)
		says.Knocks = append(says.Knocks, seam.Recalled{Knock: knock, Path: strings.Repeat("x", 1000)})
	}
	got, err := checkedFront{lying{says: says}, k}.Recent(t.Context(), client.Addr())
	if err != nil || len(got.Knocks) != 1 || !got.Knocks[0].Knock.At.Equal(good.At) || len(got.Knocks[0].Path) != seam.MaxPath || got.Client != client {
		t.Errorf("%+v, %v", got, err)
	}
	if len(got.Progress) != 1 || got.Progress[0].Sequence != "ssh" {
		t.Errorf("progress %+v", got.Progress)
	}
}
