package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/internal/event"
)

// inRecent runs a test in a bubble with a bus whose latest events are kept.
func inRecent(t *testing.T, test func(t *testing.T, bus *event.Bus, r *recent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		bus := new(event.Bus)
		r := newRecent(bus)
		go r.follow(context.Background())
		defer bus.Close()
		test(t, bus, r)
	})
}

func repair(n int) event.Repair { return event.Repair{Reason: fmt.Sprint(n)} }

func knockOf(address string) event.Knock {
	return event.Knock{Client: netip.MustParseAddr(address), Outcome: event.Missed}
}

func mustRead(t *testing.T, r *recent, q admin.EventQuery) *eventReader {
	t.Helper()
	reader, err := r.read(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	return reader
}

// drain returns what there is to read: of each event its number, or for a gap how many are
// missed. Last is the ID to go on with.
func drain(t *testing.T, reader *eventReader) (got []string, last admin.EventID) {
	t.Helper()
	synctest.Wait()
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		batch, err := reader.Next(done)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch.Events {
			id, err := admin.ParseEventID(e.ID)
			if err != nil || id.Run != batch.Last.Run {
				t.Errorf("ID %q, %v", e.ID, err)
			}
			switch {
			case e.Kind == "missed" && e.Missed == nil:
				got = append(got, "missed some")
			case e.Kind == "missed":
				got = append(got, fmt.Sprint("missed ", *e.Missed))
			default:
				got = append(got, fmt.Sprint(id.N))
			}
		}
		if last = batch.Last; !batch.More {
			return got, last
		}
	}
}

// numbers are those from one to another.
func numbers(from, to int) (all []string) {
	for n := from; n <= to; n++ {
		all = append(all, fmt.Sprint(n))
	}
	return all
}

func mustGet(t *testing.T, reader *eventReader, want ...string) (last admin.EventID) {
	t.Helper()
	got, last := drain(t, reader)
	if !slices.Equal(got, want) {
		t.Errorf("got %d: %.300q, want %d: %.300q", len(got), got, len(want), want)
	}
	return last
}

func TestAReaderGetsWhatComesAndGoesOnWhereItWas(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		bus.Publish(repair(1))
		synctest.Wait()
		first := mustRead(t, r, admin.EventQuery{})
		if last := mustGet(t, first); last.N != 1 {
			t.Errorf("it begins after %v", last)
		}
		bus.Publish(repair(2))
		last := mustGet(t, first, "2")
		first.Close()
		bus.Publish(repair(3))
		bus.Publish(knockOf("192.0.2.1"))
		bus.Publish(repair(5))
		mustGet(t, mustRead(t, r, admin.EventQuery{After: last}), "3", "4", "5")
		mustGet(t, mustRead(t, r, admin.EventQuery{Once: true}), numbers(1, 5)...)
		mustGet(t, mustRead(t, r, admin.EventQuery{Once: true, After: last}), "3", "4", "5")
		mustGet(t, mustRead(t, r, admin.EventQuery{Once: true, Recent: 2}), "4", "5")
		tail := mustRead(t, r, admin.EventQuery{Recent: 3})
		mustGet(t, tail, "3", "4", "5")
		bus.Publish(repair(6))
		mustGet(t, tail, "6")
	})
}

func TestNextWaitsForWhatTheReaderWants(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		reader := mustRead(t, r, admin.EventQuery{Kinds: []string{"ban"}})
		got := make(chan admin.EventBatch)
		go func() {
			batch, err := reader.Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- batch
		}()
		synctest.Wait()
		bus.Publish(repair(1))
		synctest.Wait()
		select {
		case batch := <-got:
			t.Errorf("it has not waited: %+v", batch)
		default:
		}
		bus.Publish(event.Ban{})
		if batch := <-got; len(batch.Events) != 1 || batch.Events[0].Kind != "ban" || batch.Last.N != 2 {
			t.Errorf("got %+v", batch)
		}
		bus.Publish(repair(3))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if batch, err := reader.Next(ctx); err != nil || len(batch.Events) != 0 || batch.Last.N != 3 {
			t.Errorf("when its time is over: %+v, %v; want to be past what it does not want", batch, err)
		}
	})
}

func TestAReaderThatIsOvertakenIsToldWhatItHasMissed(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		all, bans := mustRead(t, r, admin.EventQuery{}), mustRead(t, r, admin.EventQuery{Kinds: []string{"ban"}})
		from := mustGet(t, all)
		for n := range keptEvents + 10 {
			bus.Publish(repair(n))
			synctest.Wait()
		}
		bus.Publish(event.Ban{})
		last := keptEvents + 11
		mustGet(t, all, append([]string{"missed 11"}, numbers(12, last)...)...)
		mustGet(t, bans, "missed some", fmt.Sprint(last))
		mustGet(t, mustRead(t, r, admin.EventQuery{After: from}), append([]string{"missed 11"}, numbers(12, last)...)...)
		mustGet(t, mustRead(t, r, admin.EventQuery{After: from, Kinds: []string{"ban"}}), "missed some", fmt.Sprint(last))
		mustGet(t, mustRead(t, r, admin.EventQuery{After: admin.EventID{Run: r.run, N: 11}}), numbers(12, last)...)
		mustGet(t, all)
	})
}

func TestAFloodOfKnocksPushesOutNothingElse(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		all := mustRead(t, r, admin.EventQuery{})
		repairs := mustRead(t, r, admin.EventQuery{Kinds: []string{"repair"}})
		bus.Publish(repair(1))
		for range 10 * keptKnocks {
			bus.Publish(knockOf("192.0.2.1"))
			synctest.Wait()
		}
		bus.Publish(repair(2))
		last := 10*keptKnocks + 2
		mustGet(t, repairs, "1", fmt.Sprint(last))
		mustGet(t, all, slices.Concat([]string{fmt.Sprint("missed ", 9*keptKnocks), "1"}, numbers(last-keptKnocks, last))...)
		if n := len(r.rings[knocks].kept) + len(r.rings[others].kept); n != keptKnocks+2 {
			t.Errorf("%d are kept", n)
		}
	})
}

func TestAReaderOfAnotherRunIsToldSoAndGetsAllOfThisOne(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		bus.Publish(repair(1))
		bus.Publish(repair(2))
		synctest.Wait()
		mustGet(t, mustRead(t, r, admin.EventQuery{After: admin.EventID{Run: "0ld", N: 1}}), "missed some", "1", "2")
		var p *admin.Problem
		if _, err := r.read(admin.EventQuery{After: admin.EventID{Run: r.run, N: 3}}); !errors.As(err, &p) || p.Status != 400 || !strings.Contains(p.Detail, "no event "+r.run+"-3 yet") {
			t.Errorf("an event that has not been: %v", err)
		}
	})
	if new := newRecent(new(event.Bus)); new.run == newRecent(new.bus).run {
		t.Error("two runs have the same name")
	}
}

func TestKnocksAreWantedWhileTheyAreReadAndAMomentLonger(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		wanted := func(want bool, when string) {
			t.Helper()
			if bus.Wanted(event.KindKnock) != want {
				t.Errorf("%s: knocks are wanted: %v", when, !want)
			}
		}
		wanted(false, "without readers")
		mustRead(t, r, admin.EventQuery{Once: true})
		mustRead(t, r, admin.EventQuery{Kinds: []string{"ban", "grant"}})
		wanted(false, "while nobody asks for them")
		a, b := mustRead(t, r, admin.EventQuery{}), mustRead(t, r, admin.EventQuery{Kinds: []string{"knock"}})
		wanted(true, "with readers")
		last := mustGet(t, a)
		a.Close()
		a.Close() // does nothing
		time.Sleep(2 * knocksLinger)
		wanted(true, "with one reader")
		b.Close()
		bus.Publish(knockOf("192.0.2.1"))
		time.Sleep(knocksLinger - time.Second)
		wanted(true, "a moment later")
		c := mustRead(t, r, admin.EventQuery{After: last})
		last = mustGet(t, c, "1")
		time.Sleep(2 * knocksLinger)
		wanted(true, "with a reader again")
		c.Close()
		time.Sleep(knocksLinger + time.Second)
		wanted(false, "later")
		mustGet(t, mustRead(t, r, admin.EventQuery{After: last, Kinds: []string{"repair"}}))
		mustGet(t, mustRead(t, r, admin.EventQuery{After: last, Once: true}))
		// How many knocks were left out meanwhile, nobody knows.
		mustGet(t, mustRead(t, r, admin.EventQuery{After: last}), "missed some")
	})
}

func TestWhatTheFrontHasLostIsMissed(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		all, repairs := mustRead(t, r, admin.EventQuery{}), mustRead(t, r, admin.EventQuery{Kinds: []string{"repair"}})
		bus.Publish(repair(1))
		synctest.Wait()
		bus.Miss(event.KindKnock, 7)
		bus.Publish(knockOf("192.0.2.1"))
		bus.Publish(repair(2))
		mustGet(t, all, "1", "missed 7", "9", "10")
		mustGet(t, repairs, "1", "10")
		mustGet(t, mustRead(t, r, admin.EventQuery{After: admin.EventID{Run: r.run, N: 0}}), "1", "missed 7", "9", "10")
	})
}

func TestThereAreSoManyReadersAtMost(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		var readers []*eventReader
		for range maxReaders {
			readers = append(readers, mustRead(t, r, admin.EventQuery{}))
		}
		var p *admin.Problem
		if _, err := r.read(admin.EventQuery{}); !errors.As(err, &p) || p.Status != 503 {
			t.Errorf("one too many: %v", err)
		}
		readers[3].Close()
		mustRead(t, r, admin.EventQuery{})
	})
}

func TestReadersEndWithTheBus(t *testing.T) {
	inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
		reader := mustRead(t, r, admin.EventQuery{})
		bus.Publish(repair(1))
		bus.Close()
		synctest.Wait()
		if batch, err := reader.Next(t.Context()); err != nil || len(batch.Events) != 1 {
			t.Errorf("what was published before: %+v, %v", batch, err)
		}
		if _, err := reader.Next(t.Context()); err == nil {
			t.Error("it goes on")
		}
	})
}

func TestFiltersLetThroughWhatIsAskedFor(t *testing.T) {
	bob := netip.MustParseAddr("192.0.2.8")
	six := firewall.Grant{ID: "g6", Door: "vpn", Client: netip.MustParsePrefix("2001:db8:1::/64")}
	refused := event.GrantRefused{Completion: made, Doors: []string{"ssh"}, Closes: []string{"vpn"}, Err: firewall.ErrFull}
	events := []event.Event{
		event.Knock{Client: alice, Outcome: event.Matched, Sequence: "ssh", Step: 1, Steps: 3}, // 1
		event.Knock{Client: bob, Outcome: event.Missed},                                        // 2
		made,                            // 3: of alice, for bob
		event.GrantOpened{Grant: grant}, // 4
		event.GrantClosed{Grant: six},   // 5
		refused,                         // 6
		event.Ban{Ban: firewall.Ban{Client: netip.PrefixFrom(bob, 32)}}, // 7
		event.Command{Client: grant.Client, Sequence: "ssh"},            // 8
		event.Reload{},   // 9
		event.Degraded{}, // 10
		event.Admin{Client: "192.0.2.7", Door: "vpn"}, // 11
	}
	prefixes := func(all ...string) (list []netip.Prefix) {
		for _, s := range all {
			list = append(list, netip.MustParsePrefix(s))
		}
		return list
	}
	for _, tt := range []struct {
		query admin.EventQuery
		want  string
	}{
		{admin.EventQuery{}, "1 2 3 4 5 6 7 8 9 10 11"},
		{admin.EventQuery{Kinds: []string{"knock"}}, "1 2"},
		{admin.EventQuery{Kinds: []string{"grant"}}, "4 5 6"},
		{admin.EventQuery{Kinds: []string{"grant.closed", "degraded"}}, "5 10"},
		{admin.EventQuery{Clients: prefixes("192.0.2.7/32")}, "1 3 4 6 8 11"},
		{admin.EventQuery{Clients: prefixes("192.0.2.8/32")}, "2 3 6 7"},
		{admin.EventQuery{Clients: prefixes("192.0.2.0/24")}, "1 2 3 4 6 7 8 11"},
		{admin.EventQuery{Clients: prefixes("2001:db8:1::5/128")}, "5"},
		{admin.EventQuery{Clients: prefixes("2001:db8::/32", "192.0.2.7/32"), Kinds: []string{"grant"}}, "4 5 6"},
		{admin.EventQuery{Clients: prefixes("198.51.100.0/24")}, ""},
		{admin.EventQuery{Sequences: []string{"ssh"}}, "1 3 4 6 8"},
		{admin.EventQuery{Doors: []string{"ssh"}}, "4 6"},
		{admin.EventQuery{Doors: []string{"vpn"}}, "5 6 11"},
		{admin.EventQuery{Doors: []string{"vpn", "ssh"}, Kinds: []string{"grant.closed"}}, "5"},
	} {
		inRecent(t, func(t *testing.T, bus *event.Bus, r *recent) {
			mustRead(t, r, admin.EventQuery{}) // wants knocks
			for _, e := range events {
				bus.Publish(e)
			}
			synctest.Wait()
			tt.query.Once = true
			if got, _ := drain(t, mustRead(t, r, tt.query)); strings.Join(got, " ") != tt.want {
				t.Errorf("%+v: %q, want %q", tt.query, got, tt.want)
			}
		})
	}
}

func TestTheKindsOfTheAPIAreThoseOfEvents(t *testing.T) {
	var kinds []string
	for _, kind := range event.Kinds {
		kinds = append(kinds, string(kind))
	}
	if !slices.Equal(kinds, admin.EventKinds) {
		t.Errorf("events have %q, the API %q", kinds, admin.EventKinds)
	}
}

func TestAnUnknownKindHasAHint(t *testing.T) {
	for asked, want := range map[string]string{
		"knok":   `kind: there is no "knok" (did you mean knock?)`,
		"missed": "(one of knock, completion, grant.opened",
		"grant.": "(one of knock",
		"":       "(one of knock",
	} {
		_, err := newEventFilter(admin.EventQuery{Kinds: []string{asked}})
		var p *admin.Problem
		if !errors.As(err, &p) || p.Status != 400 || !strings.Contains(p.Detail, want) {
			t.Errorf("%q: %v", asked, err)
		}
	}
}

func TestWhatReadersAreToldOfEvents(t *testing.T) {
	until := time.Unix(1e9, 0).UTC()
	request := &event.Request{Path: "/secret/path", Target: "/secret/path"}
	secret := made
	secret.Request = request
	covered := map[event.Kind]bool{}
	for _, tt := range []struct {
		event event.Event
		want  string
	}{
		{event.Knock{Client: alice, Listener: ":8080", Outcome: event.Matched, Sequence: "ssh", Step: 2, Steps: 3, Why: "matched"},
			`"kind":"knock","client":"192.0.2.7","sequence":"ssh","reason":"matched","outcome":"matched","listener":":8080","step":2,"steps":3`},
		{secret, `"kind":"completion","client":"192.0.2.7","address":"192.0.2.8","sequence":"ssh","user":"ann","message":"hi"`},
		{event.GrantOpened{Grant: grant, Completion: &secret}, `"kind":"grant.opened","client":"192.0.2.7","sequence":"ssh","door":"ssh","user":"ann","grant":"g1","expires_at":"2001-09-09T01:46:40Z"`},
		{event.GrantExtended{Grant: grant}, `"kind":"grant.extended","client":"192.0.2.7","sequence":"ssh","door":"ssh"`},
		{event.GrantAdopted{Grant: grant}, `"kind":"grant.adopted","client":"192.0.2.7"`},
		{event.GrantClosed{Grant: grant, Reason: "expired"}, `"grant":"g1","reason":"expired","expires_at"`},
		{event.GrantRefused{Completion: secret, Doors: []string{"ssh"}, Err: firewall.ErrFull}, `"sequence":"ssh","doors":["ssh"],"user":"ann","reason":"` + firewall.ErrFull.Error()},
		{event.Repair{Reason: "flushed"}, `"kind":"repair","reason":"flushed"`},
		{event.Ban{Ban: firewall.Ban{Client: grant.Client, Until: until}, Reason: "a decoy"}, `"kind":"ban","client":"192.0.2.7","reason":"a decoy","expires_at":"2001-09-09T01:46:40Z"`},
		{event.Unban{Client: grant.Client}, `"kind":"unban","client":"192.0.2.7"`},
		{event.Reload{File: "f"}, `"kind":"reload","result":"done"`},
		{event.Reload{File: "f", Err: errors.New("x")}, `"kind":"reload","reason":"x","result":"failed"`},
		{event.Command{Program: "/bin/x", On: "open", Sequence: "ssh", Client: grant.Client, Door: "ssh", Grant: "g1", Result: "done"},
			`"kind":"command","client":"192.0.2.7","sequence":"ssh","door":"ssh","grant":"g1","result":"done","on":"open","program":"/bin/x"`},
		{event.Admin{Act: "opened ssh for 192.0.2.7", UID: 1000, Known: true, Client: "192.0.2.7", Door: "ssh", Grant: "g1"},
			`"kind":"admin","client":"192.0.2.7","door":"ssh","grant":"g1","reason":"opened ssh for 192.0.2.7","uid":1000`},
		{event.Admin{Act: "reload"}, `"kind":"admin","reason":"reload"}`},
		{event.Degraded{Problems: []string{"on fire"}}, `"kind":"degraded","problems":["on fire"]`},
		{event.FrontEnded{Reason: "signal: killed"}, `"kind":"front.ended","reason":"signal: killed"`},
		{event.CommandsEnded{Reason: "signal: killed"}, `"kind":"commands.ended","reason":"signal: killed"`},
		{event.Degraded{}, `"kind":"degraded","problems":[]`},
		{event.Admin{Act: "closed grant g1", UID: 1000, Known: true, Client: "192.0.2.7", Door: "ssh", Grant: "g1"},
			`"kind":"admin","client":"192.0.2.7","door":"ssh","grant":"g1","reason":"closed grant g1","uid":1000`},
		{event.Admin{Act: "reload"}, `"kind":"admin","reason":"reload"`},
	} {
		covered[tt.event.Kind()] = true
		kept := remember(event.Record{ID: 1, Time: until, Event: tt.event})
		text, err := kept.event.MarshalJSON()
		got := strings.Replace(string(text), `,"time":"2001-09-09T01:46:40Z"`, "", 1)
		if err != nil || !strings.Contains(got, tt.want) || strings.Contains(got, "/secret") {
			t.Errorf("%T: %s, %v; want %s", tt.event, got, err, tt.want)
		}
	}
	for _, kind := range event.Kinds {
		if !covered[kind] {
			t.Errorf("no test has %s", kind)
		}
	}
}

// What the latest events cost while nobody reads them, and while somebody does.
func BenchmarkKeepAnEvent(b *testing.B) {
	for _, readers := range []int{0, 1, maxReaders} {
		b.Run(fmt.Sprint(readers, " readers"), func(b *testing.B) {
			r := newRecent(new(event.Bus))
			for range readers {
				if _, err := r.read(admin.EventQuery{}); err != nil {
					b.Fatal(err)
				}
			}
			records := []event.Record{{Event: knockOf("192.0.2.1")}}
			b.ReportAllocs()
			for b.Loop() {
				records[0].ID++
				r.add(records, 0)
			}
		})
	}
}
