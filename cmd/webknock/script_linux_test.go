package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"webknock/httpd/admin"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"webknock": main})
}

// TestCommandsPrintTheirOutput pins what the commands print, by the scripts in testdata, each
// with a daemon that always answers the same.
func TestCommandsPrintTheirOutput(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			socket := filepath.Join(env.WorkDir, "daemon")
			log := slog.New(slog.DiscardHandler)
			l, err := admin.Listen(socket, "no-such-group", log)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(context.Background())
			served := make(chan struct{})
			go func() {
				defer close(served)
				admin.Serve(ctx, l, steady{}, log)
			}()
			env.Defer(func() {
				cancel()
				<-served
				l.Close()
			})
			env.Setenv("WEBKNOCK_SOCKET", socket)
			env.Setenv("TZ", "UTC")
			return nil
		},
	})
}

// steady is a daemon in which nothing ever changes. What it does not have itself, no
// script asks for.
type steady struct{ admin.Control }

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

func (steady) Status(context.Context) (admin.Status, error) {
	return admin.Status{
		Version: "1.0", StartedAt: noon, State: admin.Degraded, Problems: admin.List[string]{"the guard was taken away"},
		Firewall:  admin.Firewall{Backend: "nftables", Mode: "guard"},
		Listeners: admin.List[admin.Listener]{{Address: ":8080", Cover: "drop", Bound: "[::]:8080", Drops: true, Connections: 2, Knocks: 19}},
		Doors:     admin.List[admin.Door]{{Name: "ssh", Ports: admin.List[string]{"22/tcp", "60000-61000/udp"}, Grants: 2, MaxGrants: 1024, TTL: 30}},
		Sequences: admin.List[admin.Sequence]{{Name: "ssh", Steps: 3, Completions: 7}},
		Clients:   1, Grants: 2, Shield: admin.Shield{Bans: 1}, Lost: admin.Counts{"knocks": 0},
	}, nil
}

func (steady) Clients(context.Context) ([]admin.Client, error) { return nil, nil }

func (steady) Grants(context.Context) ([]admin.Grant, error) {
	return []admin.Grant{
		{ID: "abcd2345", Door: "ssh", Client: "192.0.2.7", Sequence: "ssh", User: "alice", OpenedAt: noon, ExpiresAt: noon.Add(30 * time.Second), Remaining: 28.5, Packets: 12, Bytes: 3456},
		{ID: "bcde3456", Door: "ssh", Client: "2001:db8::/64", OpenedAt: noon, ExpiresAt: noon.Add(5 * time.Minute), Remaining: 300},
	}, nil
}

func (steady) Open(_ context.Context, r admin.OpenRequest) (admin.Grant, error) {
	switch {
	case r.Door != "ssh":
		return admin.Grant{}, admin.NewProblem(http.StatusNotFound, "there is no door \""+r.Door+"\" (did you mean ssh?)")
	case r.TTL == "24h0m0s":
		return admin.Grant{}, admin.NewProblem(http.StatusUnprocessableEntity, "ttl: 24h0m0s is more than door ssh allows (up to 8h0m0s, its max_ttl)")
	}
	return admin.Grant{ID: "cdef4567", Door: r.Door, Client: r.Client, Remaining: 30}, nil
}

func (steady) Close(_ context.Context, id string) error {
	if id == "bcde3456" { // has run out since it was listed
		return admin.NewProblem(http.StatusNotFound, "grant "+id+": no such grant")
	}
	return nil
}

func (steady) Confirm(context.Context) error { return nil }

func (steady) Reload(context.Context, admin.ReloadRequest) error {
	p := admin.NewProblem(http.StatusUnprocessableEntity, "the configuration has errors, and nothing has changed")
	p.Errors = admin.List[string]{"w.yaml:6:10: doors[0].ttl: 30 has no unit (write a duration like 30s)"}
	return p
}

func (steady) Unguard(context.Context) error { return nil }

func (steady) Bans(context.Context) ([]admin.Ban, error) {
	return []admin.Ban{{Client: "192.0.2.66", Remaining: 61}}, nil
}
func (steady) Unban(context.Context, string) error { return nil }

func (steady) Explain(_ context.Context, address netip.Addr, reveal bool) (admin.Explanation, error) {
	e := admin.Explanation{Client: address.String(), Advice: "no knock came from this address since 12:00:00: is a proxy or NAT in between? listeners are :8080 (http)"}
	if address != netip.MustParseAddr("192.0.2.7") {
		return e, nil
	}
	until := noon.Add(time.Minute)
	e = admin.Explanation{
		Client: "192.0.2.7",
		Knocks: admin.List[admin.Knock]{
			{At: noon.Add(2 * time.Second), Listener: "127.0.0.1:8080", Outcome: "missed", Sequence: "ssh", Step: 2, Steps: 3, Why: "3.2 s too late for step 2 (within 10s)"},
			{At: noon, Listener: ":8080", Outcome: "wrong_code", Sequence: "one-time", Step: 2, Steps: 2, Why: "code used already, by another client or before a restart (step 2 of 2): starts over"},
		},
		Progress:    admin.List[admin.Client]{{Client: "192.0.2.7", Sequence: "ssh", Step: 1, Steps: 3}},
		Grants:      admin.List[admin.Grant]{{ID: "abcd2345", Door: "ssh", Client: "192.0.2.7", Remaining: 28.5}},
		BannedUntil: &until,
		Advice:      "send the steps of ssh faster, or give step 2 a longer within",
	}
	if reveal {
		e.Knocks[0].Path = "/b\x1b[2J"
	}
	return e, nil
}

// History has more than a page, so that a client has to ask again.
func (steady) History(_ context.Context, q admin.HistoryQuery) (admin.HistoryList, error) {
	at := time.Date(2001, 1, 2, 12, 0, 0, 0, time.UTC) // long ago, whenever the test runs
	end := at.Add(30 * time.Second)
	packets, sent, root := uint64(12), uint64(3456), uint32(0)
	all := []admin.HistoryEntry{ // the latest first
		{ID: 5, Time: at, Event: "reload", Reason: "w.yaml:6:10: doors[0].ttl: 30 has no unit\nw.yaml:7: x"},
		{ID: 4, Time: at, Event: "admin", Reason: "reload", UID: &root},
		{ID: 3, Time: at, Event: "refused", Client: "192.0.2.9", Sequence: "ssh", Door: "ssh", Reason: "door ssh is full (max_grants 2)"},
		{ID: 2, Time: end, Event: "closed", Client: "192.0.2.8", Sequence: "ssh", Door: "ssh", Grant: "b", Reason: "expired", OpenedAt: &at, ClosedAt: &end, ExpiresAt: &end, Packets: &packets, Bytes: &sent},
		{ID: 1, Time: at, Event: "opened", Client: "192.0.2.7", Sequence: "ssh", Door: "ssh", User: "alice", Grant: "a", OpenedAt: &at, ExpiresAt: &end},
	}
	next := "2"
	switch {
	case q.User == "nobody":
		return admin.HistoryList{Last: 5}, nil
	case q.User == "unreadable":
		return admin.HistoryList{}, admin.NewProblem(http.StatusInternalServerError, "it is damaged")
	case q.Cursor != "":
		return admin.HistoryList{Entries: all[3:], Last: 5}, nil
	}
	return admin.HistoryList{Entries: all[:min(3, q.Limit)], Next: &next, Last: 5}, nil
}

func (steady) Events(_ context.Context, q admin.EventQuery) (admin.EventReader, error) {
	at := func(n int) (id string, clock time.Time) {
		return fmt.Sprint("abc-", n), noon.Add(time.Duration(n) * time.Second)
	}
	var events []admin.Event
	for n, e := range []admin.Event{
		{Kind: "knock", Client: "192.0.2.7", Outcome: "matched", Listener: ":8080", Sequence: "ssh", Step: 2, Steps: 3},
		{Kind: "knock", Client: "2001:db8:1:2:3:4:5:6", Outcome: "missed", Reason: "it matches no step\n"},
		{Kind: "completion", Client: "192.0.2.7", Sequence: "ssh", User: "alice"},
		{Kind: "grant.opened", Client: "192.0.2.7", Door: "ssh", Grant: "abcd2345", Sequence: "ssh", User: "alice", ExpiresAt: noon.Add(time.Minute)},
		{Kind: "grant.refused", Client: "192.0.2.7", Doors: admin.List[string]{"ssh", "vpn"}, Sequence: "ssh", Reason: "the door is full"},
		{Kind: "grant.closed", Client: "192.0.2.7", Door: "ssh", Grant: "abcd2345", Sequence: "ssh", User: "alice", Reason: "expired"},
		{Kind: "missed"},
		{Kind: "knock", Client: "192.0.2.7", Outcome: "matched", Reason: "matched step 1 of 3", Listener: ":8080", Sequence: "ssh", Step: 1, Steps: 3},
		{Kind: "admin", Client: "192.0.2.9", Door: "ssh", Reason: "opened ssh for 192.0.2.9", UID: new(uint32)},
		{Kind: "ban", Client: "192.0.2.66", Reason: "a decoy", ExpiresAt: noon.Add(time.Hour)},
		{Kind: "command", Client: "192.0.2.7", Program: "/usr/local/bin/hello", On: "open", Result: "done", Door: "ssh"},
		{Kind: "repair", Reason: "the table was flushed"},
		{Kind: "reload", Result: "failed", Reason: "w.yaml:6:10: doors[0].ttl: 30 has no unit"},
		{Kind: "degraded", Problems: admin.List[string]{"on fire", "out of water"}},
		{Kind: "degraded", Problems: admin.List[string]{}},
	} {
		e.ID, e.Time = at(n + 1)
		events = append(events, e)
	}
	if len(q.Kinds) > 0 { // the daemon's filters have tests of their own
		events = nil
	}
	return &told{events}, nil
}

// told is a reader of events that ends with those it has.
type told struct{ events []admin.Event }

func (t *told) Next(context.Context) (admin.EventBatch, error) {
	batch := admin.EventBatch{Events: t.events, Last: admin.EventID{Run: "abc", N: 13}}
	t.events = nil
	return batch, nil
}

func (t *told) Close() {}
