package keeper

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/internal/atomicfile"
	"webknock/internal/event"
	"webknock/internal/history"
	"webknock/internal/store"
)

func TestWhatTheHistoryHasOfEvents(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	g := firewall.Grant{ID: "abcd2345", Door: "ssh", Client: netip.MustParsePrefix("192.0.2.7/32"), Sequence: "s", User: "alice", Opened: at, Expires: at.Add(time.Hour), Packets: 3, Bytes: 300}
	made := event.Completion{At: at, Sequence: "s", Client: netip.MustParseAddr("192.0.2.7"), Address: netip.MustParseAddr("192.0.2.8"), User: "alice", Request: &event.Request{Path: "/secret"}}
	for _, tt := range []struct {
		event event.Event
		want  string
	}{
		{event.GrantOpened{Grant: g}, "opened 192.0.2.7 s ssh alice abcd2345"},
		{event.GrantAdopted{Grant: g}, "opened 192.0.2.7 s ssh alice abcd2345"},
		{event.GrantClosed{Grant: g, Reason: "expired"}, "closed 192.0.2.7 s ssh alice abcd2345 expired 3 300"},
		{event.GrantRefused{Completion: made, Doors: []string{"ssh", "web"}, Err: firewall.ErrFull}, "refused 192.0.2.7 s ssh,web alice for 192.0.2.8: no room for another grant"},
		{event.Ban{Ban: firewall.Ban{Client: netip.MustParsePrefix("2001:db8::/64"), Until: at}, At: at, Reason: "a decoy"}, "banned 2001:db8::/64 a decoy"},
		{event.Unban{Client: g.Client}, "unbanned 192.0.2.7"},
		{event.Reload{File: "f"}, "reload"},
		{event.Reload{File: "f", Err: errors.New("no")}, "reload no"},
		{event.Repair{Reason: "flushed"}, "repair flushed"},
		{event.Degraded{Problems: []string{"on fire", "wet"}}, "degraded on fire; wet"},
		{event.Degraded{}, "recovered"},
		{event.Admin{Act: "closed grant x", UID: 1000, Known: true, Client: "192.0.2.7", Door: "ssh", Grant: "x"}, "admin 192.0.2.7 ssh x closed grant x uid 1000"},
		{event.Admin{Act: "reload"}, "admin reload"},
		{event.Completion{Sequence: "s"}, ""},
	} {
		dir := atomicfile.NewDir(t.TempDir())
		file := store.New(dir)
		log := history.NewLog(file, history.Limits{Keep: 1e6 * time.Hour, Max: 10}, history.Boot{}, slog.New(slog.DiscardHandler))
		h := newHistorian(log)
		h.handle(event.Record{Time: at, Event: tt.event})
		written := background(t.Context(), log.Run)
		if err := log.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.bans.stop()
		written(t.Context())
		list, err := ReadHistory(file, admin.HistoryQuery{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, e := range list.Entries {
			fields := []string{e.Event, e.Client, e.Sequence, e.Door, e.User, e.Grant, e.Reason}
			if e.Packets != nil {
				fields = append(fields, fmt.Sprint(*e.Packets, *e.Bytes))
			}
			if e.UID != nil {
				fields = append(fields, fmt.Sprint("uid ", *e.UID))
			}
			got += strings.Join(slices.DeleteFunc(fields, func(s string) bool { return s == "" }), " ")
		}
		if got != tt.want {
			t.Errorf("%T: %q, want %q", tt.event, got, tt.want)
		}
		file.Close()
		dir.Close()
	}
}

func TestOfManyBansAnHourHasOneSum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sum []int
		s := sums{tell: func(more int) {
			mu.Lock()
			defer mu.Unlock()
			sum = append(sum, more)
		}}
		told := func() []int {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(sum)
		}
		add := func(n int) (single int) {
			for range n {
				if s.add() {
					single++
				}
			}
			return single
		}
		if single := add(1000); single != singleBans {
			t.Errorf("%d are told one by one", single)
		}
		time.Sleep(banHour - 1)
		synctest.Wait()
		if single := add(1); single != 0 || told() != nil {
			t.Errorf("before the hour is over: %d told one by one, sums %v", single, told())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if single := add(singleBans); single != singleBans || !slices.Equal(told(), []int{971}) {
			t.Errorf("in the next hour: %d told one by one, sums %v", single, told())
		}
		time.Sleep(banHour)
		synctest.Wait()
		add(singleBans + 2)
		s.stop()
		if !slices.Equal(told(), []int{971, 2}) {
			t.Errorf("at the end: sums %v", told())
		}
	})
}
