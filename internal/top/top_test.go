package top

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	tea "charm.land/bubbletea/v2"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

func TestTheScreen(t *testing.T) {
	m, _ := started(t)
	if got := screen(m); got != wholeScreen {
		t.Errorf("screen:%s\nwant:%s", got, wholeScreen)
	}
	if v := m.View(); !v.AltScreen || "\n"+v.Content+"\n" != wholeScreen {
		t.Errorf("view %+v", v)
	}
}

// Colours only stress what the words say.
func TestColoursSayNothingOfTheirOwn(t *testing.T) {
	m, _ := started(t)
	m.Colours = true
	text := screen(m)
	for _, code := range []string{"1", "2", "32", "33", ""} {
		if !strings.Contains(text, "\x1b["+code+"m") {
			t.Errorf("no colour %q", code)
		}
	}
	for code := range 60 {
		text = strings.ReplaceAll(text, fmt.Sprintf("\x1b[%dm", code), "")
	}
	text = strings.NewReplacer("\x1b[1;31m", "", "\x1b[m", "").Replace(text)
	if text != wholeScreen {
		t.Errorf("screen:%s", text)
	}
}

func TestTheScreenFitsEverySize(t *testing.T) {
	m, _ := started(t)
	m.status.Problems = admin.List[string]{strings.Repeat("a long problem ", 20) + "(mend it)", "another"}
	by := noon.Add(time.Minute)
	m.status.ConfirmBy = &by
	for _, colours := range []tty.Colours{false, true} {
		m.Colours = colours
		for width := 1; width <= 130; width += 6 {
			for height := 1; height <= 60; height += 2 {
				for _, zoomed := range []bool{false, true} {
					m.zoomed = zoomed
					m.Update(tea.WindowSizeMsg{Width: width, Height: height})
					lines := m.lines()
					if len(lines) > height {
						t.Fatalf("%d lines at %dx%d", len(lines), width, height)
					}
					for _, line := range lines {
						if tty.Width(line) > width {
							t.Fatalf("%q at %dx%d", line, width, height)
						}
					}
				}
			}
		}
	}
}

// Strangers choose their addresses alone, but nothing that comes from the daemon is
// trusted to be harmless.
func TestNothingOnTheScreenIsAnOrderToTheTerminal(t *testing.T) {
	const evil = "\x1b]0;x\x07\x1b[2J\r\n\t\u202e\u009b1m\x7f\xff"
	m, _ := started(t)
	poison := func(v any) { addToStrings(reflect.ValueOf(v), evil) }
	s := busy()
	s.status.Problems = admin.List[string]{"x", "y"}
	poison(&s.status)
	poison(&s.grants)
	poison(&s.clients)
	poison(&s.bans)
	s.stats.Minutes[59].Knocks[evil] = 7
	knocks := someKnocks()
	poison(&knocks)
	for i := range knocks {
		knocks[i].Kind = "knock"
	}
	m.Explain = func(context.Context, netip.Addr) ([]string, error) { return []string{"x" + evil}, nil }
	m.Update(snapshotMsg{snapshot: s})
	m.Update(knocksMsg{knocks: knocks})
	check := func(when string) {
		t.Helper()
		for _, line := range m.lines() {
			if tty.Clean(line) != line {
				t.Errorf("%s: %q", when, line)
			}
		}
	}
	check("all panes")
	for p := range paneCount {
		m.focus, m.zoomed = p, true
		check(m.title(p))
	}
	m.zoomed = false
	m.Update(closedMsg{admin.Grant{ID: evil, Door: evil, Client: evil}, nil})
	check("closed")
	m.Update(closedMsg{admin.Grant{}, errors.New(evil)})
	check("not closed")
	m.focus = grantsPane
	press(t, m, "x")
	check("close?")
	press(t, m, "n")
	m.Update(explainedMsg{netip.MustParseAddr("192.0.2.7"), []string{evil}, nil})
	check("explained")
	m.Update(explainedMsg{netip.MustParseAddr("192.0.2.7"), nil, errors.New(evil)})
	check("not explained")
	m.page = nil
	m.Update(snapshotMsg{err: errors.New(evil)})
	check("gone")
	m.typing = true
	m.Update(tea.PasteMsg{Content: evil + "1"})
	check("pasted")
}

// addToStrings adds a text to every string that a value has.
func addToStrings(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			addToStrings(v.Elem(), text)
		}
	case reflect.String:
		v.SetString(v.String() + text)
	case reflect.Slice:
		for i := range v.Len() {
			addToStrings(v.Index(i), text)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			addToStrings(v.Field(i), text)
		}
	}
}

func TestAGrantCountsDown(t *testing.T) {
	m, _ := started(t)
	m.Update(tickMsg(noon.Add(3 * time.Second)))
	mustShow(t, m, "\n  17s #####... ssh 2001:db8")
	mustShow(t, m, "\n  2s  #....... ssh 192.0.2.7 ")
	mustShow(t, m, "12:00:03\n")
	m.Update(tickMsg(noon.Add(9 * time.Second)))
	mustShow(t, m, "\n  0s  ........ ssh 192.0.2.7 ")
}

func TestClosingAsksFirst(t *testing.T) {
	m, d := started(t)
	press(t, m, "x")
	mustShow(t, m, "choose a grant first")
	press(t, m, "tab", "down", "x")
	mustShow(t, m, "close ssh for 192.0.2.7? y/n")
	press(t, m, "n")
	mustShow(t, m, "nothing was closed")
	press(t, m, "x", "z") // neither y nor n
	mustShow(t, m, "? y/n")

	// The question stays about the same grant, whatever comes meanwhile.
	s := busy()
	s.grants = append([]admin.Grant{{ID: "c", Door: "ssh", Client: "192.0.2.8"}}, s.grants...)
	m.Update(snapshotMsg{snapshot: s})
	if len(d.closed) != 0 {
		t.Fatalf("closed %q before y", d.closed)
	}
	press(t, m, "y")
	if !reflect.DeepEqual(d.closed, []string{"a"}) {
		t.Errorf("closed %q", d.closed)
	}
	mustShow(t, m, "closed ssh for 192.0.2.7")
	m.Update(closedMsg{admin.Grant{ID: "gone"}, errors.New("no such grant")})
	mustShow(t, m, "not closed: no such grant")
}

func TestTheChosenRowStaysChosen(t *testing.T) {
	m, _ := started(t)
	press(t, m, "down", "down")
	mustShow(t, m, "\n> 11:59:57 192.0.2.99 ")
	m.Update(knocksMsg{knocks: []admin.Event{{ID: "r-5", Kind: "knock", Time: noon, Client: "192.0.2.1"}}})
	mustShow(t, m, "\n> 11:59:57 192.0.2.99 ")
	press(t, m, "home")
	mustShow(t, m, "\n> 12:00:00 192.0.2.1\n")
	m.Update(knocksMsg{knocks: []admin.Event{{ID: "r-6", Kind: "knock", Time: noon, Client: "192.0.2.2"}}})
	mustShow(t, m, "\n> 12:00:00 192.0.2.2\n")
	press(t, m, "end")
	mustShow(t, m, "\n> 11:59:56 192.0.2.9 ")

	// One that is not in sight is scrolled to, in every pane.
	press(t, m, "tab", "tab")
	s := busy()
	s.clients = nil
	for i := range 30 {
		s.clients = append(s.clients, admin.Client{Client: fmt.Sprintf("192.0.2.%d", 100+i), Sequence: "ssh", Steps: 3, ExpiresAt: noon})
	}
	m.Update(snapshotMsg{snapshot: s})
	mustNotShow(t, m, "192.0.2.120")
	for range 20 {
		press(t, m, "down")
	}
	mustShow(t, m, "\n> 0s 0/3 ssh 192.0.2.120\n")
}

func TestTheFilterIsOfClients(t *testing.T) {
	for _, tt := range []struct {
		filter      string
		shown, gone []string
	}{
		{"192.0.2.9", []string{"192.0.2.9 ", "192.0.2.99"}, []string{"2001:db8", "192.0.2.7 ", "missin", "192.0.2.66"}},
		{"2001:db8::/32", []string{"2001:db8:1:2:3:4:5:6"}, []string{"192.0.2."}},
		{"192.0.2.64/26", []string{"192.0.2.99", "192.0.2.66"}, []string{"2001:db8:1", "192.0.2.9 ", "192.0.2.7 "}},
	} {
		m, _ := started(t)
		press(t, m, "/")
		press(t, m, strings.Split(tt.filter, "")...)
		mustShow(t, m, "show only clients with: "+tt.filter+"_")
		press(t, m, "enter")
		for _, client := range tt.shown {
			mustShow(t, m, client)
		}
		for _, client := range tt.gone {
			mustNotShow(t, m, client)
		}
		press(t, m, "esc")
		if got := screen(m); got != wholeScreen {
			t.Errorf("after esc:%s", got)
		}
	}
	m, _ := started(t)
	press(t, m, "/", "1", "q", "x", "backspace", "2") // no letters of keys
	mustShow(t, m, "with: 2_")
}

func TestNothingMovesWhilePaused(t *testing.T) {
	m, _ := started(t)
	press(t, m, "p")
	m.Update(tickMsg(noon.Add(3 * time.Second)))
	m.Update(knocksMsg{knocks: []admin.Event{{ID: "r-5", Kind: "knock", Time: noon, Client: "192.0.2.1"}}})
	m.Update(snapshotMsg{snapshot: snapshot{at: noon.Add(time.Second)}})
	mustShow(t, m, "paused, 1 knocks wait")
	if got := screen(m); below(got) != below(wholeScreen) {
		t.Errorf("screen:%s", got)
	}
	press(t, m, "p")
	mustShow(t, m, "192.0.2.1\n")
	mustShow(t, m, "WHO IS IN 0")
	mustNotShow(t, m, "paused")
}

// What is kept is bounded, paused or not, and what is thrown away is told.
func TestAFloodIsBounded(t *testing.T) {
	for _, paused := range []bool{false, true} {
		m, _ := started(t)
		m.paused = paused
		for range 10 {
			many := make([]admin.Event, keptKnocks)
			for i := range many {
				many[i] = admin.Event{ID: fmt.Sprint(i), Kind: "knock", Client: "192.0.2.1"}
			}
			m.Update(knocksMsg{knocks: many})
		}
		if n := len(m.held.knocks.knocks); paused && n != keptKnocks {
			t.Errorf("%d knocks held", n)
		}
		if paused {
			press(t, m, "p")
		}
		if len(m.knocks) != keptKnocks {
			t.Errorf("%d knocks", len(m.knocks))
		}
	}
	m, _ := started(t)
	m.Update(knocksMsg{skipped: 7})
	mustShow(t, m, "7 knocks missing")
}

func TestTheDaemonMayGoAndComeBack(t *testing.T) {
	m, _ := started(t)
	m.Update(snapshotMsg{snapshot: snapshot{at: noon.Add(time.Second)}, err: admin.ErrNoDaemon})
	mustShow(t, m, "webknock 1.0  gone ")
	mustShow(t, m, "! gone since 12:00:00, below is what was before: no daemon answers")
	mustShow(t, m, "ssh 192.0.2.7 ")
	s := busy()
	s.at = noon.Add(2 * time.Second)
	m.Update(snapshotMsg{snapshot: s})
	mustShow(t, m, "webknock 1.0  ok ")
	mustShow(t, m, "the daemon is back")
	mustNotShow(t, m, "gone")
	m.Update(tickMsg(time.Now().Add(time.Minute)))
	mustNotShow(t, m, "is back")
}

func TestADaemonThatTellsOfNoKnocksIsToldOf(t *testing.T) {
	m, _ := started(t)
	m.Update(knocksMsg{err: errors.New("too many readers\x1b[2J")})
	mustShow(t, m, "> KNOCKS ARE NOT TOLD: too many readers [2J ---")
	m.Update(knocksMsg{})
	mustShow(t, m, "> KNOCKS ---")
}

func TestWhatIsDrawnOfManyClientsIsBounded(t *testing.T) {
	m, _ := started(t)
	s := busy()
	for i := range 3 * maxRows {
		client := fmt.Sprintf("10.0.%d.%d", i/256, i%256)
		s.clients = append(s.clients, admin.Client{Client: client})
		s.grants = append(s.grants, admin.Grant{ID: client, Client: client})
		s.bans = append(s.bans, admin.Ban{Client: client})
	}
	m.Update(snapshotMsg{snapshot: s})
	for _, p := range []pane{clientsPane, grantsPane, bansPane} {
		if n := len(m.rows(p)); n != maxRows {
			t.Errorf("%s: %d rows", m.title(p), n)
		}
	}
	mustShow(t, m, "ON THE WAY 3002 ")
	m.filter = "10.0.11.8"
	mustShow(t, m, "ON THE WAY 11 of 3002 ")
	mustShow(t, m, "0s 10.0.11.8 ")
}

// An answer that was overtaken by a later one is not shown.
func TestAnOldAnswerDoesNotReplaceALaterOne(t *testing.T) {
	m, _ := started(t)
	m.Update(snapshotMsg{snapshot: snapshot{at: noon.Add(-time.Second)}})
	mustShow(t, m, "WHO IS IN 2")
}

func TestProblemsSayWhatToDo(t *testing.T) {
	m, _ := started(t)
	s := busy()
	by := noon.Add(90 * time.Second)
	s.status.State, s.status.Firewall.Guarded, s.status.ConfirmBy = admin.Degraded, false, &by
	s.status.Problems = admin.List[string]{"the guard was taken away", "x", "y"}
	m.Update(snapshotMsg{snapshot: s})
	mustShow(t, m, "webknock 1.0  degraded  not guarded ")
	mustShow(t, m, "! undone in 1m30s unless webknock confirm follows\n! the guard was taken away\n  run webknock reload")
	press(t, m, "enter")
	m.Update(tea.WindowSizeMsg{Width: 160, Height: 24})
	mustShow(t, m, "(and 2 more: webknock status)")
}

func TestExplain(t *testing.T) {
	m, _ := started(t)
	press(t, m, "left", "e") // rates
	mustShow(t, m, "choose a client first")
	press(t, m, "left", "e") // bans
	mustShow(t, m, "> explain 192.0.2.66\nadvice for 192.0.2.66\n")
	press(t, m, "esc")
	mustShow(t, m, "> BANNED 1")

	lines := strings.Split(strings.Repeat("line\n", 50), "\n")
	lines[40] = "the end"
	m.Update(explainedMsg{netip.MustParseAddr("192.0.2.7"), lines, nil})
	for range 30 {
		press(t, m, "down")
	}
	mustShow(t, m, "\nthe end\n")
	press(t, m, "q")
	mustShow(t, m, "> BANNED 1")
}

func TestASmallScreenHasOnePane(t *testing.T) {
	m, _ := started(t)
	m.Update(tea.WindowSizeMsg{Width: 40, Height: 8})
	mustShow(t, m, "> KNOCKS")
	mustNotShow(t, m, "WHO IS IN")
	press(t, m, "right")
	mustShow(t, m, "> WHO IS IN 2")
	mustNotShow(t, m, "KNOCKS --")
}

func TestKeysThatEnd(t *testing.T) {
	for _, key := range []tea.KeyPressMsg{{Text: "q", Code: 'q'}, {Code: 'c', Mod: tea.ModCtrl}} {
		m, _ := started(t)
		_, cmd := m.Update(key)
		if cmd == nil {
			t.Fatalf("%v does nothing", key)
		}
		if _, ok := cmd().(tea.QuitMsg); !ok {
			t.Errorf("%v does not quit", key)
		}
	}
}

func TestTheDaemonIsAskedForWhatThereIs(t *testing.T) {
	d := &fake{snapshot: busy()}
	msg := ask(t.Context(), d, true)().(snapshotMsg)
	if msg.err != nil || len(msg.grants) != 2 || len(msg.clients) != 2 || len(msg.bans) != 1 || !msg.last || msg.grants[0].ID != "b" {
		t.Errorf("%+v", msg)
	}
	d.status.Clients, d.status.Shield.Bans = 0, 0
	if msg := ask(t.Context(), d, true)().(snapshotMsg); msg.clients != nil || msg.bans != nil {
		t.Errorf("asked for nobody: %+v", msg)
	}
	d.err = admin.ErrNoDaemon
	if msg := ask(t.Context(), d, true)().(snapshotMsg); !errors.Is(msg.err, admin.ErrNoDaemon) {
		t.Errorf("error %v", msg.err)
	}
}

// The feed goes on when there is a daemon again, and keeps the latest knocks alone while
// nobody takes them.
func TestTheFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		times := 0
		d := &fake{follow: func(ctx context.Context, q admin.EventQuery, show func(admin.Event) error) error {
			if times++; times == 1 {
				return admin.ErrNoDaemon
			}
			if !reflect.DeepEqual(q.Kinds, []string{"knock"}) || q.Recent != firstKnocks {
				t.Errorf("asks for %+v", q)
			}
			for i := range keptKnocks + 3 {
				show(admin.Event{ID: fmt.Sprint(i)})
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		f := newFeed()
		go f.run(ctx, d)
		if msg := f.next(ctx)().(knocksMsg); !errors.Is(msg.err, admin.ErrNoDaemon) || len(msg.knocks) > 0 {
			t.Errorf("without a daemon: %+v", msg)
		}
		msg := f.next(ctx)().(knocksMsg)
		if times != 2 || msg.err != nil || len(msg.knocks) != keptKnocks || msg.skipped != 3 || msg.knocks[0].ID != "3" {
			t.Errorf("%d times, %d knocks from %+v, %d skipped", times, len(msg.knocks), msg.knocks[0], msg.skipped)
		}
		cancel()
		synctest.Wait()
	})
}
