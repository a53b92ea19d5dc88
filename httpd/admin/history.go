package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// HistoryList is the answer to GET /v1/history.
type HistoryList struct {
	Entries List[HistoryEntry] `json:"entries"` // newest first
	Next    *string            `json:"next"`    // the cursor of the entries that follow; null: none do
	Last    uint64             `json:"last"`    // the id of the latest entry, whether or not it is asked for
}

// HistoryEntry is one thing that has happened. A grant has one: when it was opened or, if
// it has ended, how and when.
type HistoryEntry struct {
	ID        uint64     `json:"id"` // grows from entry to entry
	Time      time.Time  `json:"time"`
	Event     string     `json:"event"`  // one of HistoryEvents
	Client    string     `json:"client"` // an address, or a prefix
	Sequence  string     `json:"sequence"`
	Door      string     `json:"door"` // several of refused, separated by commas
	User      string     `json:"user"`
	Grant     string     `json:"grant"`
	Reason    string     `json:"reason"`
	OpenedAt  *time.Time `json:"opened_at"`  // of a grant
	ExpiresAt *time.Time `json:"expires_at"` // of a grant or a ban
	ClosedAt  *time.Time `json:"closed_at"`  // of a grant that has ended
	Packets   *uint64    `json:"packets"`    // from the client, of a grant that has ended; null: unknown
	Bytes     *uint64    `json:"bytes"`      // likewise
	UID       *uint32    `json:"uid"`        // of the administrator
}

// HistoryEvents are the events of entries.
var HistoryEvents = []string{"opened", "closed", "banned", "unbanned", "refused", "reload", "repair", "degraded", "recovered", "admin", "lost"}

// How many entries one answer holds.
const (
	defaultHistoryLimit = 100
	MaxHistoryLimit     = 1000
)

// HistoryQuery says which entries to return. What is zero restricts nothing.
type HistoryQuery struct {
	User, Door string
	Client     netip.Prefix // has an address in common with that of the entry
	Events     []string
	Since      time.Time
	After      uint64 // only entries with a greater id
	Limit      int    // 1 to MaxHistoryLimit
	Cursor     string // where to go on, as next has it
}

// ParseHistoryQuery reads the parameters of GET /v1/history. Its error says which of them
// is wrong, and what would be right.
func ParseHistoryQuery(values url.Values, now time.Time) (HistoryQuery, error) {
	q := HistoryQuery{Limit: defaultHistoryLimit}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		read := historyParameters[name]
		switch given := values[name]; {
		case name == "event":
			var err error
			if q.Events, err = ParseHistoryEvents(given); err != nil {
				return q, err
			}
		case read == nil:
			return q, fmt.Errorf("there is no parameter %q (%s)", name, strings.Join(slices.Sorted(maps.Keys(historyParameters)), ", "))
		case len(given) > 1:
			return q, fmt.Errorf("%s is there twice", name)
		case given[0] == "": // a field of a form that was left empty
		default:
			if err := read(&q, given[0], now); err != nil {
				return q, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return q, nil
}

// historyParameters read the parameters that are there once.
var historyParameters = map[string]func(q *HistoryQuery, text string, now time.Time) error{
	"user": func(q *HistoryQuery, text string, _ time.Time) error {
		q.User = text
		return nil
	},
	"door": func(q *HistoryQuery, text string, _ time.Time) error {
		q.Door = text
		return nil
	},
	"client": func(q *HistoryQuery, text string, _ time.Time) (err error) {
		q.Client, err = ParseScope(text)
		return err
	},
	"event": nil, // may be there several times
	"since": func(q *HistoryQuery, text string, now time.Time) (err error) {
		q.Since, err = ParseSince(text, now)
		return err
	},
	"after": func(q *HistoryQuery, text string, _ time.Time) (err error) {
		if q.After, err = strconv.ParseUint(text, 10, 63); err != nil {
			return errors.New("not the id of an entry")
		}
		return nil
	},
	"limit": func(q *HistoryQuery, text string, _ time.Time) (err error) {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > MaxHistoryLimit {
			return fmt.Errorf("not a number from 1 to %d", MaxHistoryLimit)
		}
		return nil
	},
	"cursor": func(q *HistoryQuery, text string, _ time.Time) error {
		q.Cursor = text
		return nil
	},
}

// ParseHistoryEvents reads lists of events, each separated by commas.
func ParseHistoryEvents(given []string) (events []string, err error) {
	for _, list := range given {
		for _, event := range strings.Split(list, ",") {
			if event = strings.TrimSpace(event); event == "" {
				continue
			}
			if !slices.Contains(HistoryEvents, event) {
				return nil, fmt.Errorf("event: %q is not an event of the history (%s)", event, strings.Join(HistoryEvents, ", "))
			}
			events = append(events, event)
		}
	}
	return events, nil
}

// ParseSince reads a time: how long ago it is, or the time itself.
func ParseSince(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	return time.Time{}, errors.New("neither a duration nor a time (like 24h or 2026-01-31T15:04:05Z)")
}

// ParseScope reads an address or a prefix, whose bits after its length are ignored. An
// IPv4-mapped address is the IPv4 one.
func ParseScope(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("not an address or prefix (like 192.0.2.7 or 2001:db8::/64)")
	}
	return p.Masked(), nil
}

func (q HistoryQuery) values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("user", q.User)
	set("door", q.Door)
	if q.Client.IsValid() {
		v.Set("client", q.Client.String())
	}
	set("event", strings.Join(q.Events, ","))
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.After > 0 {
		v.Set("after", strconv.FormatUint(q.After, 10))
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	set("cursor", q.Cursor)
	return v
}

// History returns GET /v1/history.
func (a API) History(ctx context.Context, q HistoryQuery) (h HistoryList, err error) {
	err = a.call(ctx, http.MethodGet, "/v1/history?"+q.values().Encode(), nil, &h)
	return h, err
}

func serveHistory(control Control) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		values, err := url.ParseQuery(r.URL.RawQuery)
		var q HistoryQuery
		if err == nil {
			q, err = ParseHistoryQuery(values, time.Now())
		}
		if err != nil {
			fail(w, NewProblem(http.StatusBadRequest, err.Error()))
			return
		}
		list, err := control.History(r.Context(), q)
		answer(w, http.StatusOK, list, err)
	}
}
