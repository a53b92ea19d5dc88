package history

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"webknock/internal/store"
)

// readAtOnce is how many entries are read in one transaction. While one is under way
// nobody else can use the store, and so no one-time code can be used.
const readAtOnce = 256

// ErrCursor means that Query has never returned such a cursor.
var ErrCursor = errors.New("not a cursor (one that next had)")

// A Filter says which entries to return. What is zero restricts nothing.
type Filter struct {
	User   string
	Door   string
	Client netip.Prefix // has an address in common with that of the entry
	Events []Event
	Since  time.Time
	After  uint64 // only entries with a greater id
	Limit  int    // how many at most, at least 1
	Cursor string // where to go on; empty: from the latest entry
}

// A Page is the answer to a query.
type Page struct {
	Entries []Entry // newest first
	Next    string  // the cursor of what follows; empty: nothing follows
	Last    uint64  // the id of the latest entry, whether or not the filter admits it
}

// A Reader reads the store.
type Reader interface {
	View(func(*store.Tx) error) error
}

// Query returns entries, newest first. The entry of an opening is left out if that of
// the grant's end is there. Pages that follow each other by cursors show the history as
// it was when the first of them was read, apart from entries that are removed meanwhile.
func Query(r Reader, f Filter) (Page, error) {
	var at cursor
	if f.Cursor != "" {
		var err error
		if at, err = parseCursor(f.Cursor); err != nil {
			return Page{}, err
		}
	}
	var p Page
	for more := true; more; {
		err := r.View(func(tx *store.Tx) (err error) {
			more, err = f.read(tx, &at, &p)
			return err
		})
		if err != nil {
			return Page{}, err
		}
	}
	if len(p.Entries) > f.Limit {
		p.Entries = p.Entries[:f.Limit]
		p.Next = cursor{at.top, p.Entries[f.Limit-1].ID}.String()
	}
	return p, nil
}

// read adds entries to a page, and reports whether there is more to read.
func (f Filter) read(tx *store.Tx, at *cursor, p *Page) (more bool, err error) {
	t, err := begin(tx, time.Time{})
	if err != nil {
		return false, err
	}
	if p.Last == 0 {
		last, _ := t.entries.Last()
		p.Last = idOf(last)
		if at.top == 0 {
			*at = cursor{p.Last, p.Last + 1}
		}
	}
	n := 0
	t.entries.Reverse(key(at.before), func(k, value []byte) bool {
		if n++; n > readAtOnce || len(p.Entries) > f.Limit {
			more = n > readAtOnce
			return false
		}
		if at.before = idOf(k); at.before <= f.After {
			return false
		}
		if e, ok := f.entry(t, at, value); ok {
			p.Entries = append(p.Entries, e)
		}
		return true
	})
	return more, nil
}

// entry returns the entry at a cursor, if the filter admits it.
func (f Filter) entry(t *transaction, at *cursor, value []byte) (Entry, bool) {
	if when, err := timeOf(value); err == nil && when.Before(f.Since) {
		return Entry{}, false
	}
	if !f.mayAdmit(value) {
		return Entry{}, false
	}
	e, err := decode(value)
	if err != nil {
		e = Entry{Event: Lost, Reason: err.Error()}
	}
	e.ID = at.before
	if !f.admits(e) {
		return Entry{}, false
	}
	if e.Event == Opened {
		if end := idOf(t.ends.Get(key(e.ID))); end > 0 && end <= at.top {
			return Entry{}, false
		}
		if o, found, err := t.opening(e.Grant); err == nil && found && o.id == e.ID {
			e.Expires = o.entry.Expires
		}
		e.Traffic = nil
	}
	return e, true
}

// mayAdmit reports whether admits may be true of an entry, without decoding it, which
// takes ten times as long.
func (f Filter) mayAdmit(value []byte) bool {
	differs := func(name string, equal func(string) bool) bool {
		text, ok := textOf(value, name)
		return ok && !equal(text)
	}
	return !(f.User != "" && differs("u", func(user string) bool { return user == f.User }) ||
		len(f.Events) > 0 && differs("e", func(event string) bool { return slices.Contains(f.Events, Event(event)) }) ||
		f.Client.IsValid() && differs("c", func(client string) bool { return overlaps(f.Client, client) }))
}

// textOf returns a field of the record in a value, empty if it has none. It reports false
// if only decoding can tell. In a text of JSON quotes are escaped, so that what looks like
// a field is one.
func textOf(value []byte, name string) (text string, ok bool) {
	_, rest, found := bytes.Cut(value, []byte(`"`+name+`":"`))
	if !found {
		return "", len(value) > 8 && value[len(value)-1] == '}'
	}
	field, _, ended := bytes.Cut(rest, []byte{'"'})
	return string(field), ended && !bytes.ContainsRune(field, '\\')
}

func (f Filter) admits(e Entry) bool {
	return (f.User == "" || e.User == f.User) &&
		(f.Door == "" || e.Door == f.Door || slices.Contains(strings.Split(e.Door, ","), f.Door)) &&
		(len(f.Events) == 0 || slices.Contains(f.Events, e.Event)) &&
		(!f.Client.IsValid() || overlaps(f.Client, e.Client))
}

func overlaps(client netip.Prefix, text string) bool {
	if addr, err := netip.ParseAddr(text); err == nil {
		return client.Contains(addr)
	}
	p, err := netip.ParsePrefix(text)
	return err == nil && p.Overlaps(client)
}

// A cursor is a place in the history.
type cursor struct {
	top    uint64 // the id of the latest entry when the first page was read
	before uint64 // the page goes on with the entry before that of this id
}

func (c cursor) String() string { return fmt.Sprintf("%d-%d", c.top, c.before) }

func parseCursor(text string) (c cursor, err error) {
	if n, err := fmt.Sscanf(text, "%d-%d", &c.top, &c.before); err != nil || n != 2 || c.String() != text || c.before == 0 || c.before > c.top {
		return cursor{}, ErrCursor
	}
	return c, nil
}
