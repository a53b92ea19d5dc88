package front

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"webknock/internal/event"
	"webknock/internal/seam"
)

func TestTheKeeperIsToldOfEveryKnockIfItWantsToKnow(t *testing.T) {
	f, keeper := fresh(t)
	cfg := at(t, "127.0.0.1", file+"\nshield: {ban: {knocks: 20}, decoys: [/wp-login.php]}\n")
	if _, err := prepare(t, f, cfg); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	send(f.shards, "192.0.2.1", "/unwatched")
	if err := f.shards.each(t.Context(), func(s *shard, _ time.Duration) { s.readQueue() }); err != nil {
		t.Fatal(err)
	}
	f.WatchKnocks(true)
	send(f.shards, "192.0.2.1", "/x", "/a", "/favicon.ico", "nonsense\r\n\r\n", "GET /a HTTP/1.1\r\nHost: h\r\nPurpose: prefetch\r\n\r\n", "/c", "/a", "/b", "/c", "/wp-login.php", "/a")
	if err := f.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keeper.knocks {
		got = append(got, string(k.Outcome))
		if k.Client != netip.MustParseAddr("192.0.2.1") || time.Since(k.At) > time.Minute {
			t.Errorf("%+v", k)
		}
	}
	if want := "missed matched ignored malformed prefetch missed matched matched completed missed banned"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	if len(keeper.bans) != 1 || keeper.bans[0].Reason != decoy {
		t.Errorf("bans %+v", keeper.bans)
	}
}

// Under a flood the keeper gets so many knocks and no more, learns how many there were
// besides, and still hears of those that matter.
func TestAFloodOfMissesLeavesRoomForWhatMatters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keeper := new(told)
		w := newWatch(keeper)
		for range 1000 {
			w.tell(event.Knock{Outcome: event.Missed})
		}
		w.tell(event.Knock{Outcome: event.Completed})
		time.Sleep(seam.KnocksInterval - 1)
		if keeper.told() != 0 {
			t.Error("told at once")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if len(keeper.knocks) != forStrangers+1 || keeper.knocks[forStrangers].Outcome != event.Completed || keeper.missed != 1000-forStrangers {
			t.Errorf("told of %d knocks, missed %d", len(keeper.knocks), keeper.missed)
		}
		for range seam.MaxKnocks + 1 {
			w.tell(event.Knock{Outcome: event.Matched})
		}
		w.stop()
		if keeper.batches != 2 || len(keeper.knocks) != forStrangers+1+seam.MaxKnocks {
			t.Errorf("%d batches, %d knocks", keeper.batches, len(keeper.knocks))
		}
	})
}

func TestOutcomesAreCountedByListener(t *testing.T) {
	f, _ := fresh(t)
	addresses, err := prepare(t, f, at(t, "127.0.0.1", file))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/x", "/y", "/a", "/b", "/c"} {
		visit(t, addresses[0], path)
	}
	if err := f.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[event.Outcome]uint64{}
	for _, c := range f.State().Knocks {
		if c.Listener != "127.0.0.1:0" {
			t.Errorf("listener %q", c.Listener)
		}
		got[c.Outcome] = c.Count
	}
	if len(got) != len(event.Outcomes()) || fmt.Sprint(got[event.Missed], got[event.Matched], got[event.Completed]) != "2 2 1" {
		t.Errorf("%v", got)
	}
}

func TestAClientBeyondTheBoundIsUntracked(t *testing.T) {
	keeper := new(told)
	r, err := newRules(parse(t, file), nil)
	if err != nil {
		t.Fatal(err)
	}
	all := newShards(1, r, nil, nil, nil)
	all.watch = newWatch(keeper)
	all.watch.set(true)
	for i := range 3 {
		send(all, fmt.Sprint("192.0.2.", i), "/a")
	}
	for _, s := range all.shards {
		s.readQueue()
	}
	all.watch.stop()
	count := map[event.Outcome]int{}
	for _, k := range keeper.knocks {
		count[k.Outcome]++
	}
	if count[event.Matched] != 1 || count[event.Untracked] != 2 {
		t.Errorf("%v", count)
	}
}
