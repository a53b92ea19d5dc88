package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestTheParametersOfTheHistory(t *testing.T) {
	for query, want := range map[string]HistoryQuery{
		"": {Limit: 100},
		"user=&door=&client=&since=&limit=&cursor=&after=&event=": {Limit: 100}, // a form that was left empty
		"user=alice&door=ssh":                {User: "alice", Door: "ssh", Limit: 100},
		"client=192.0.2.7":                   {Client: netip.MustParsePrefix("192.0.2.7/32"), Limit: 100},
		"client=2001:db8::/32":               {Client: netip.MustParsePrefix("2001:db8::/32"), Limit: 100},
		"client=::ffff:192.0.2.7":            {Client: netip.MustParsePrefix("192.0.2.7/32"), Limit: 100},
		"event=opened&event=closed, banned,": {Events: []string{"opened", "closed", "banned"}, Limit: 100},
		"since=90m":                          {Since: noon.Add(-90 * time.Minute), Limit: 100},
		"since=0s":                           {Since: noon, Limit: 100},
		"since=2026-01-31T15:04:05Z":         {Since: time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC), Limit: 100},
		"limit=1":                            {Limit: 1},
		"limit=1000&cursor=9-7&after=3":      {Limit: 1000, Cursor: "9-7", After: 3},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseHistoryQuery(values, noon)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", query, got, err, want)
		}
		again, err := ParseHistoryQuery(got.values(), noon) // as the client sends it
		if err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s, sent again: %+v, %v", query, again, err)
		}
	}
}

func TestAWrongParameterOfTheHistoryIsNamed(t *testing.T) {
	api, _ := serve(t)
	for query, want := range map[string]string{
		"limit=0":                    "limit: not a number from 1 to 1000",
		"limit=1001":                 "limit: not a number from 1 to 1000",
		"limit=many":                 "limit: not a number from 1 to 1000",
		"since=yesterday":            "since: neither a duration nor a time (like 24h",
		"since=-1h":                  "since: neither",
		"client=home":                "client: not an address or prefix (like 192.0.2.7",
		"client=fe80::1%25eth0":      "client: not an address",
		"event=entered":              `event: "entered" is not an event of the history (opened, closed,`,
		"after=-1":                   "after: not the id of an entry",
		"after=99999999999999999999": "after: not the id of an entry",
		"user=a&user=b":              "user is there twice",
		"usr=a":                      `there is no parameter "usr" (after, client, cursor, door, event, limit, since, user)`,
		"user=%zz":                   "invalid URL escape",
	} {
		err := api.call(t.Context(), http.MethodGet, "/v1/history?"+query, nil, nil)
		var problem *Problem
		if !errors.As(err, &problem) || problem.Status != http.StatusBadRequest || !strings.HasPrefix(problem.Detail, want) {
			t.Errorf("%s: %v; want 400 %s", query, err, want)
		}
	}
}

func TestTheClientAsksForTheHistory(t *testing.T) {
	api, _ := serve(t)
	q := HistoryQuery{User: "alice", Client: netip.MustParsePrefix("2001:db8::/32"), Events: []string{"opened", "closed"}, Since: noon, After: 3, Limit: 7, Cursor: "9-8"}
	list, err := api.History(t.Context(), q)
	if err != nil || len(list.Entries) != 1 || list.Entries[0].ID != 7 || list.Last != 7 || *list.Next != fmt.Sprintf("%+v", q) {
		t.Errorf("%+v, next %q, %v; want %+v", list, *list.Next, err, q)
	}
}

func FuzzParseHistoryQuery(f *testing.F) {
	for _, query := range []string{"", "user=a&since=1h", "event=opened,closed&client=::1", "limit=7&after=1&cursor=3-2", "since=2026-01-31T15:04:05%2B01:00", "client=10.0.0.0/8"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		q, err := ParseHistoryQuery(values, noon)
		if err != nil {
			return
		}
		if q.Limit < 1 || q.Limit > MaxHistoryLimit {
			t.Errorf("%q: limit %d", query, q.Limit)
		}
		again, err := ParseHistoryQuery(q.values(), noon)
		if err != nil || !again.Since.Equal(q.Since) {
			t.Errorf("%q: %+v cannot be sent again: %+v, %v", query, q, again, err)
		}
		again.Since = q.Since // the same time may be in another zone
		if !reflect.DeepEqual(again, q) {
			t.Errorf("%q: %+v, sent again %+v", query, q, again)
		}
	})
}
