package history

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"webknock/firewall"
	"webknock/internal/atomicfile"
	"webknock/internal/store"
)

var (
	noon    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	booted  = Boot{ID: "boot1", At: noon.Add(-time.Hour)}
	endless = Limits{Keep: 1000 * 24 * time.Hour, Max: 100000}
)

func TestAGrantHasOneEntry(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	g := grant("abcd2345", "alice", "192.0.2.7/32", noon)
	l.Opened(g, noon)
	mustWrite(t, l)
	page := mustList(t, f, Filter{}, "opened 12:00:00 192.0.2.7 alice abcd2345")
	if e := page.Entries[0]; !e.Expires.Equal(g.Expires) || !e.Opened.Equal(noon) || e.Traffic != nil || e.Door != "ssh" || e.Sequence != "seq" {
		t.Errorf("the opening: %+v", e)
	}
	g.Expires = noon.Add(2 * time.Hour)
	l.Extended(g, noon.Add(time.Minute))
	mustWrite(t, l)
	page = mustList(t, f, Filter{}, "opened 12:00:00 192.0.2.7 alice abcd2345")
	if e := page.Entries[0]; !e.Expires.Equal(g.Expires) {
		t.Errorf("after the extension it ends %v", e.Expires)
	}
	g.Packets, g.Bytes = 7, 700
	l.Closed(g, "expired", noon.Add(2*time.Hour))
	mustWrite(t, l)
	page = mustList(t, f, Filter{}, "closed 14:00:00 192.0.2.7 alice abcd2345 expired 7/700")
	if e := page.Entries[0]; !e.Opened.Equal(noon) || !e.Expires.Equal(g.Expires) || e.ID != 2 {
		t.Errorf("the end: %+v", e)
	}
}

// Two users behind one address have one grant, and both stand in the history.
func TestAGrantThatAnotherUserExtendsIsTheirsFromThenOn(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	g := grant("abcd2345", "alice", "192.0.2.7/32", noon)
	l.Opened(g, noon)
	g.User, g.Expires, g.Packets, g.Bytes = "bob", noon.Add(2*time.Hour), 10, 1000
	l.Extended(g, noon.Add(time.Minute))
	mustWrite(t, l)
	mustList(t, f, Filter{}, "opened 12:01:00 192.0.2.7 bob abcd2345", "closed 12:01:00 192.0.2.7 alice abcd2345 extended by user bob 10/1000")
	g.User, g.Sequence = "", ""
	l.Extended(g, noon.Add(2*time.Minute))
	g.Packets, g.Bytes = 15, 1500
	l.Closed(g, "expired", noon.Add(2*time.Hour))
	mustWrite(t, l)
	mustList(t, f, Filter{},
		"closed 14:00:00 192.0.2.7 abcd2345 expired 5/500",
		"closed 12:02:00 192.0.2.7 bob abcd2345 extended by an administrator 0/0",
		"closed 12:01:00 192.0.2.7 alice abcd2345 extended by user bob 10/1000")
}

func TestGrantsThatEndedWhileNothingRanHaveAnEnd(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	clock := func(at time.Time) string { return at.UTC().Format("15:04:05") }
	opened := now.Add(-30 * time.Minute)
	for _, tt := range []struct {
		name    string
		expires time.Time
		boot    Boot
		adopted bool
		want    string
	}{
		{"it goes on", now.Add(time.Minute), booted, true, "opened " + clock(opened) + " 192.0.2.7 alice abcd2345"},
		{"it has run out", now.Add(-time.Minute), booted, false, "closed " + clock(now.Add(-time.Minute)) + " 192.0.2.7 alice abcd2345 ended while webknock did not run"},
		{"the machine was booted", now.Add(time.Minute), Boot{"boot2", now.Add(-10 * time.Minute)}, false, "closed " + clock(now.Add(-10*time.Minute)) + " 192.0.2.7 alice abcd2345 reboot"},
		{"it had run out before the boot", now.Add(-20 * time.Minute), Boot{"boot2", now.Add(-10 * time.Minute)}, false, "closed " + clock(now.Add(-20*time.Minute)) + " 192.0.2.7 alice abcd2345 ended while webknock did not run"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFile(t)
			l := newLog(f, endless, booted)
			l.Started()
			g := grant("abcd2345", "alice", "192.0.2.7/32", opened)
			g.Expires = tt.expires
			l.Opened(g, opened)
			mustWrite(t, l) // and then it is killed
			l = newLog(f, endless, tt.boot)
			if tt.adopted {
				l.Adopted(g)
			}
			l.Started()
			mustWrite(t, l)
			mustList(t, f, Filter{}, tt.want)
			l = newLog(f, endless, tt.boot) // a third start has nothing to add
			if tt.adopted {
				l.Adopted(g)
			}
			l.Started()
			mustWrite(t, l)
			mustList(t, f, Filter{}, tt.want)
		})
	}
}

// The daemon was killed before it had written that the grant was opened.
func TestAnAdoptedGrantThatIsNotThereIsAdded(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	l.Adopted(grant("abcd2345", "alice", "192.0.2.7/32", noon))
	l.Started()
	mustWrite(t, l)
	mustList(t, f, Filter{}, "opened 12:00:00 192.0.2.7 alice abcd2345")
}

func TestMissedEventsAreSaidAndMadeUpFor(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	now := time.Now()
	a, b := grant("aaaa2345", "alice", "192.0.2.7/32", now), grant("bbbb2345", "bob", "192.0.2.8/32", now)
	l.Opened(a, now)
	mustWrite(t, l)
	l.Missed(12, []firewall.Grant{b})
	mustWrite(t, l)
	l.Opened(b, now) // was in the queue behind what was missed
	mustWrite(t, l)
	got, _ := list(t, f, Filter{})
	var events []string
	for _, line := range got {
		events = append(events, strings.Join(slices.Delete(strings.Fields(line), 1, 2), " "))
	}
	want := []string{"opened 192.0.2.8 bob bbbb2345", "closed 192.0.2.7 alice aaaa2345 its end was missed", "lost 12 events were missed: more came than could be handled"}
	if !slices.Equal(events, want) {
		t.Errorf("got %q, want %q", events, want)
	}
}

func TestWhatIsMissedDuringAWriteIsMadeUpForByTheNext(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	now := time.Now()
	a := grant("aaaa2345", "alice", "192.0.2.7/32", now)
	l.Opened(a, now)
	l.Missed(1, []firewall.Grant{a})
	f.during = func() {
		f.during = nil
		l.Missed(1, nil)
	}
	mustWrite(t, l)
	mustWrite(t, l)
	got, _ := list(t, f, Filter{Events: []Event{Opened, Closed}})
	if len(got) != 1 || !strings.HasSuffix(got[0], "192.0.2.7 alice aaaa2345 its end was missed") {
		t.Errorf("got %q", got)
	}
}

func TestFilters(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	uid := uint32(1000)
	l.Opened(grant("aaaa2345", "alice", "192.0.2.7/32", noon), noon)
	l.Opened(grant("bbbb2345", "bob", "2001:db8:1::/64", noon), noon.Add(time.Second))
	l.Add(Entry{Time: noon.Add(2 * time.Second), Event: Banned, Client: "203.0.113.9"})
	l.Add(Entry{Time: noon.Add(3 * time.Second), Event: Refused, Client: "192.0.2.7", User: "alice", Door: "web,vpn", Reason: "full"})
	l.Add(Entry{Time: noon.Add(4 * time.Second), Event: Admin, Reason: "reload", UID: &uid})
	mustWrite(t, l)
	const (
		alice   = "opened 12:00:00 192.0.2.7 alice aaaa2345"
		bob     = "opened 12:00:01 2001:db8:1::/64 bob bbbb2345"
		ban     = "banned 12:00:02 203.0.113.9"
		refused = "refused 12:00:03 192.0.2.7 alice full"
		reload  = "admin 12:00:04 reload"
	)
	for name, tt := range map[string]struct {
		filter Filter
		want   []string
	}{
		"none":                    {Filter{}, []string{reload, refused, ban, bob, alice}},
		"user":                    {Filter{User: "alice"}, []string{refused, alice}},
		"door":                    {Filter{Door: "ssh"}, []string{bob, alice}},
		"one of several doors":    {Filter{Door: "vpn"}, []string{refused}},
		"a part of a door's name": {Filter{Door: "vp"}, nil},
		"address":                 {Filter{Client: netip.MustParsePrefix("192.0.2.7/32")}, []string{refused, alice}},
		"address in a prefix":     {Filter{Client: netip.MustParsePrefix("2001:db8:1::77/128")}, []string{bob}},
		"prefix":                  {Filter{Client: netip.MustParsePrefix("192.0.0.0/16")}, []string{refused, alice}},
		"all IPv4":                {Filter{Client: netip.MustParsePrefix("0.0.0.0/0")}, []string{refused, ban, alice}},
		"events":                  {Filter{Events: []Event{Banned, Admin}}, []string{reload, ban}},
		"since":                   {Filter{Since: noon.Add(2 * time.Second)}, []string{reload, refused, ban}},
		"since just after":        {Filter{Since: noon.Add(2*time.Second + 1)}, []string{reload, refused}},
		"after":                   {Filter{After: 3}, []string{reload, refused}},
		"after the last":          {Filter{After: 5}, nil},
		"all of it":               {Filter{User: "alice", Door: "web", Events: []Event{Refused}, Since: noon}, []string{refused}},
	} {
		t.Run(name, func(t *testing.T) {
			if page := mustList(t, f, tt.filter, tt.want...); page.Last != 5 {
				t.Errorf("last is %d", page.Last)
			}
		})
	}
}

// A clock that is set back hides nothing.
func TestSinceFindsEntriesBehindOnesWithAWrongTime(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	for _, at := range []time.Time{noon, time.Unix(0, 0), noon.Add(time.Minute)} {
		l.Add(Entry{Time: at, Event: Repair})
	}
	mustWrite(t, l)
	mustList(t, f, Filter{Since: noon}, "repair 12:01:00", "repair 12:00:00")
}

func TestPagesShowTheHistoryAsItWasThoughItGrowsAndShrinks(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	g := grant("aaaa2345", "alice", "192.0.2.7/32", noon)
	l.Opened(g, noon)
	for i := range 2 * readAtOnce {
		l.Add(Entry{Time: noon, Event: Repair, Reason: fmt.Sprint(i)})
	}
	mustWrite(t, l)
	var got []string
	filter := Filter{Limit: 100}
	for pages := 0; ; pages++ {
		lines, page := list(t, f, filter)
		got = append(got, lines...)
		if filter.Cursor = page.Next; filter.Cursor == "" {
			break
		}
		l.Add(Entry{Time: noon, Event: Reload})
		if pages == 1 {
			l.Closed(g, "expired", noon) // it is newer than the first page
		}
		mustWrite(t, l)
	}
	var want []string
	for i := range 2 * readAtOnce {
		want = append(want, fmt.Sprint("repair 12:00:00 ", 2*readAtOnce-1-i))
	}
	if want = append(want, "opened 12:00:00 192.0.2.7 alice aaaa2345"); !slices.Equal(got, want) {
		t.Errorf("got %d lines, want %d: %q", len(got), len(want), got)
	}
	// The oldest are removed between two pages.
	_, page := list(t, f, Filter{Limit: 100})
	l.Use(Limits{Keep: endless.Keep, Max: 150})
	mustWrite(t, l)
	lines, page := list(t, f, Filter{Limit: 100, Cursor: page.Next})
	if len(lines) != 50 || page.Next != "" {
		t.Errorf("the second page has %d entries, next %q", len(lines), page.Next)
	}
}

func TestALimitIsKept(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	for i := range 10 {
		l.Add(Entry{Time: noon, Event: Repair, Reason: fmt.Sprint(i)})
	}
	mustWrite(t, l)
	for limit, next := range map[int]bool{1: true, 9: true, 10: false, 11: false} {
		lines, page := list(t, f, Filter{Limit: limit})
		if len(lines) != min(limit, 10) || (page.Next != "") != next {
			t.Errorf("limit %d: %d entries, next %q", limit, len(lines), page.Next)
		}
	}
}

func TestACursorThatWasNeverGivenIsAnError(t *testing.T) {
	f := newFile(t)
	for _, text := range []string{"x", "1", "1-", "-1", "1-0", "1-2", "01-1", "1-1 ", "+1-1", "9999999999999999999999-1", "5-5-5"} {
		if _, err := Query(f, Filter{Limit: 1, Cursor: text}); !errors.Is(err, ErrCursor) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestOnlyTheOldestAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile(t)
		l := newLog(f, Limits{Keep: time.Hour, Max: 5}, booted)
		began := time.Now()
		add := func(reason string) {
			l.Add(Entry{Time: time.Now(), Event: Repair, Reason: reason})
			mustWrite(t, l)
		}
		reasons := func() (all []string) {
			page, err := Query(f, Filter{Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Entries {
				all = append(all, e.Reason)
			}
			return all
		}
		for _, reason := range []string{"1", "2", "3", "4", "5"} {
			add(reason)
		}
		if got := reasons(); len(got) != 5 {
			t.Errorf("at the limit: %q", got)
		}
		time.Sleep(time.Minute)
		add("6")
		if got := reasons(); !slices.Equal(got, []string{"6", "5", "4", "3", "2"}) {
			t.Errorf("one over the limit: %q", got)
		}
		time.Sleep(time.Hour - time.Since(began))
		mustWrite(t, l)
		if got := reasons(); len(got) != 5 {
			t.Errorf("as old as they may be: %q", got)
		}
		time.Sleep(time.Nanosecond)
		mustWrite(t, l)
		if got := reasons(); !slices.Equal(got, []string{"6"}) {
			t.Errorf("too old: %q", got)
		}
		f.Close()
	})
}

func TestWithoutTimeNothingIsKept(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	g := grant("aaaa2345", "alice", "192.0.2.7/32", noon)
	l.Opened(g, noon)
	for range 2*maxRemoved + 1 {
		l.Add(Entry{Time: noon, Event: Repair})
		if l.waits() == maxWaiting {
			mustWrite(t, l)
		}
	}
	mustWrite(t, l)
	l.Use(Limits{Keep: 0, Max: 10})
	l.Add(Entry{Time: noon, Event: Repair})
	mustWrite(t, l)
	mustList(t, f, Filter{})
	// When it is kept again, the grant that runs is in it, and numbers go on.
	l.Use(endless)
	mustWrite(t, l)
	if page := mustList(t, f, Filter{}, "opened 12:00:00 192.0.2.7 alice aaaa2345"); page.Last != 2*maxRemoved+3 {
		t.Errorf("its id is %d", page.Last)
	}
}

func TestWhatWaitsIsWrittenInGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile(t)
		l, stop := start(t, f, endless)
		l.Add(Entry{Time: noon, Event: Repair})
		l.Add(Entry{Time: noon, Event: Reload})
		time.Sleep(groupDelay - 1)
		synctest.Wait()
		mustList(t, f, Filter{})
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		mustList(t, f, Filter{}, "reload 12:00:00", "repair 12:00:00")
		l.Add(Entry{Time: noon, Event: Repair})
		if err := l.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		mustList(t, f, Filter{}, "repair 12:00:00", "reload 12:00:00", "repair 12:00:00")
		l.Add(Entry{Time: noon, Event: Unbanned})
		stop()
		mustList(t, f, Filter{Limit: 1}, "unbanned 12:00:00")
		f.Close()
	})
}

func TestAFullDiskLosesTheOldestAndSaysHowMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile(t)
		l, stop := start(t, f, endless)
		defer f.Close()
		defer stop()
		f.failWith(syscall.ENOSPC)
		g := grant("aaaa2345", "alice", "192.0.2.7/32", noon)
		l.Opened(g, noon) // is the first to be lost
		for i := range maxWaiting + 9 {
			l.Add(Entry{Time: noon, Event: Repair, Reason: fmt.Sprint(i)})
		}
		time.Sleep(2 * groupDelay)
		synctest.Wait()
		if err := l.Problem(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "(4096 entries wait, 10 are lost)") {
			t.Errorf("the problem is %v", err)
		}
		if l.Lost() != 10 {
			t.Errorf("%d lost", l.Lost())
		}
		f.failWith(nil)
		time.Sleep(2 * retryInterval)
		synctest.Wait()
		if err := l.Problem(); err != nil {
			t.Error(err)
		}
		page, err := Query(f, Filter{Limit: 1})
		if err != nil || len(page.Entries) != 1 || page.Entries[0].Event != Opened || page.Last != maxWaiting+2 {
			t.Errorf("the latest entry is %+v, %v", page, err)
		}
		page, err = Query(f, Filter{Limit: 10, Events: []Event{Lost}})
		if err != nil || len(page.Entries) != 1 || page.Entries[0].Reason != "10 entries could not be written" || page.Entries[0].ID != 1 {
			t.Errorf("lost: %+v, %v", page, err)
		}
	})
}

// A damaged file is a problem until another is in its place, and nothing more.
func TestADamagedFileIsAProblemUntilItIsReplaced(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	l.Started()
	g := grant("aaaa2345", "alice", "192.0.2.7/32", noon)
	l.Opened(g, noon)
	mustWrite(t, l)
	garbage := f.Path() + ".new"
	if err := errors.Join(os.WriteFile(garbage, []byte("garbage"), 0o600), os.Rename(garbage, f.Path())); err != nil {
		t.Fatal(err)
	}
	l.Add(Entry{Time: noon, Event: Repair})
	if err := l.write(); err == nil || l.Problem() == nil || !strings.Contains(l.Problem().Error(), "(1 entries wait, 0 are lost): ") || !strings.Contains(l.Problem().Error(), "damaged") {
		t.Errorf("the problem is %v, %v", l.Problem(), err)
	}
	if err := os.Remove(f.Path()); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, l)
	if err := l.Problem(); err != nil {
		t.Error(err)
	}
	mustList(t, f, Filter{}, "repair 12:00:00")
	l.Closed(g, "expired", noon) // of whose opening the new file knows nothing
	mustWrite(t, l)
	mustList(t, f, Filter{}, "closed 12:00:00 192.0.2.7 alice aaaa2345 expired 0/0", "repair 12:00:00")
}

// Whoever reads entries that somebody else has damaged gets the others.
func TestADamagedEntryHidesNoOther(t *testing.T) {
	f := newFile(t)
	l := newLog(f, endless, booted)
	for range 3 {
		l.Add(Entry{Time: noon, Event: Repair})
	}
	mustWrite(t, l)
	err := f.Update(func(tx *store.Tx) error {
		b, err := tx.Bucket(entryBucket)
		return errors.Join(err, b.Put(key(1), []byte("x")), b.Put(key(2), append(make([]byte, 8), "{"...)))
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := list(t, f, Filter{})
	if len(got) != 3 || got[0] != "repair 12:00:00" || !strings.Contains(got[1], "damaged") || !strings.Contains(got[2], "damaged") {
		t.Errorf("%q", got)
	}
}

func TestTheStoreOfADaemonThatDoesNotRunCanBeRead(t *testing.T) {
	dir := atomicfile.NewDir(t.TempDir())
	s := store.New(dir)
	r := store.NewReader(dir.Path(""))
	mustList(t, r, Filter{})
	l := newLog(&file{Store: s}, endless, booted)
	l.Add(Entry{Time: noon, Event: Repair})
	mustWrite(t, l)
	s.Close()
	dir.Close()
	before, err := os.ReadFile(dir.Path("webknock.db"))
	if err != nil {
		t.Fatal(err)
	}
	mustList(t, r, Filter{}, "repair 12:00:00")
	if after, err := os.ReadFile(dir.Path("webknock.db")); err != nil || !slices.Equal(before, after) {
		t.Errorf("reading has changed the file, %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir.Path(""), "webknock.db"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Query(r, Filter{Limit: 1}); err == nil || !strings.Contains(err.Error(), "damaged or not a file of webknock") {
		t.Errorf("of another file: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	uid := uint32(0)
	for _, e := range []Entry{
		{Time: noon, Event: Closed, Client: "192.0.2.7", Sequence: "s", Door: "d", User: "u", Grant: "g", Reason: "r", Opened: noon, Expires: noon, Traffic: &Traffic{1, 2}},
		{Time: noon, Event: Admin, Reason: "…", UID: &uid}, {},
	} {
		f.Add(e.encode())
	}
	f.Add(append(make([]byte, 8), `{"e":"closed","p":1}`...))
	f.Fuzz(func(t *testing.T, value []byte) {
		decodeOpening(value)
		e, err := decode(value)
		if err != nil {
			return
		}
		again, err := decode(e.encode())
		if err != nil {
			t.Fatalf("%q: encoded again it cannot be read: %v", value, err)
		}
		if third, _ := decode(again.encode()); plain(third) != plain(again) {
			t.Errorf("%q: %+v, then %+v", value, again, third)
		}
	})
}

// plain returns an entry as text, with what its pointers point to.
func plain(e Entry) string {
	var traffic Traffic
	var uid uint32
	if e.Traffic != nil {
		traffic = *e.Traffic
	}
	if e.UID != nil {
		uid = *e.UID
	}
	known := fmt.Sprint(e.Traffic != nil, e.UID != nil)
	e.Traffic, e.UID = nil, nil
	return fmt.Sprintf("%+v %+v %d %s", e, traffic, uid, known)
}

// Whatever an entry holds, the quick look at it never hides what the filter admits.
func FuzzTheQuickLookHidesNothing(f *testing.F) {
	f.Add("alice", "192.0.2.7", `"u":"bob","c":"x"`, "opened")
	f.Add(`al"u":"bob`, "2001:db8::/64", `\`, "a,b")
	f.Add("", "", "", "")
	f.Fuzz(func(t *testing.T, user, client, reason, event string) {
		e, err := decode(Entry{Time: noon, Event: Event(event), User: user, Client: client, Reason: reason, Sequence: reason, Door: user}.encode())
		if err != nil {
			t.Fatal(err)
		}
		for _, filter := range []Filter{
			{}, {User: e.User}, {User: "bob"}, {Events: []Event{e.Event}}, {Events: []Event{Opened}},
			{Client: netip.MustParsePrefix("192.0.2.0/24")}, {Client: netip.MustParsePrefix("::/0")},
		} {
			if filter.admits(e) && !filter.mayAdmit(e.encode()) {
				t.Errorf("%+v hides %+v", filter, e)
			}
		}
	})
}
