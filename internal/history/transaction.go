package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"webknock/firewall"
	"webknock/internal/store"
)

// The buckets.
const (
	entryBucket = "history"      // id → entry
	endBucket   = "history ends" // id of the entry of an opening → that of its end
	openBucket  = "history open" // id of a grant that runs → its opening: the entry's id, and the entry as it would be now
	bootBucket  = "history boot" // bootKey → the boot in which openBucket was written
	maxRemoved  = 4096           // entries that one transaction removes
)

var bootKey = []byte("boot")

// Why a grant has ended, where nobody saw its end.
const (
	notRunning = "ended while webknock did not run"
	reboot     = "reboot"
	unseen     = "its end was missed"
)

// A transaction changes the history.
type transaction struct {
	entries, ends, open, boot store.Bucket
	now                       time.Time
}

func begin(tx *store.Tx, now time.Time) (*transaction, error) {
	t := &transaction{now: now}
	var errs []error
	for name, bucket := range map[string]*store.Bucket{entryBucket: &t.entries, endBucket: &t.ends, openBucket: &t.open, bootBucket: &t.boot} {
		var err error
		*bucket, err = tx.Bucket(name)
		errs = append(errs, err)
	}
	return t, errors.Join(errs...)
}

// carryOut makes the changes of a group, and removes what is over the limits. It
// reports whether there is more to remove.
func (t *transaction) carryOut(group []change, lost uint64, settle settling, running map[string]firewall.Grant, boot Boot, limits Limits) (more bool, err error) {
	if limits.Keep > 0 {
		if lost > 0 {
			err = t.add(Entry{Time: t.now, Event: Lost, Reason: fmt.Sprintf("%d entries could not be written", lost)})
		}
		for _, change := range group {
			err = errors.Join(err, change(t))
		}
		if settle != settled {
			err = errors.Join(err, t.settle(running, settle, boot))
		}
	}
	if err != nil {
		return false, err
	}
	return t.retain(limits)
}

func key(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// idOf returns the id in a key, or in the front of a value; 0: there is none.
func idOf(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (t *transaction) add(e Entry) error {
	_, err := t.append(e)
	return err
}

func (t *transaction) append(e Entry) (id uint64, err error) {
	if id, err = t.entries.NextSequence(); err != nil {
		return 0, err
	}
	return id, t.entries.Append(key(id), e.encode())
}

// An opening is what openBucket has of a grant that runs. Traffic of the entry is what
// had been counted when it began, if it is not the first of its grant.
type opening struct {
	id    uint64
	entry Entry
}

func decodeOpening(value []byte) (o opening, err error) {
	if o.id = idOf(value); o.id == 0 {
		return o, errors.New("an opening in the history is damaged")
	}
	o.entry, err = decode(value[8:])
	return o, err
}

func (o opening) encode() []byte { return append(key(o.id), o.entry.encode()...) }

func entryOf(g firewall.Grant) Entry {
	return Entry{Client: firewall.ClientString(g.Client), Sequence: g.Sequence, Door: g.Door, User: g.User, Grant: g.ID, Opened: g.Opened, Expires: g.Expires}
}

func (t *transaction) opened(g firewall.Grant, at time.Time) error {
	e := entryOf(g)
	e.Event, e.Time = Opened, at
	return t.begins(e)
}

func (t *transaction) begins(e Entry) error {
	id, err := t.append(e)
	if err != nil {
		return err
	}
	return t.open.Put([]byte(e.Grant), opening{id, e}.encode())
}

// runs notes a grant that is new or whose end is. If another user or sequence has
// extended it, the entry of the former ends, and one of the latter begins.
func (t *transaction) runs(g firewall.Grant, at time.Time) error {
	o, found, err := t.opening(g.ID)
	switch {
	case err != nil:
		return err
	case !found:
		return t.opened(g, at)
	case o.entry.User == g.User && o.entry.Sequence == g.Sequence:
		if o.entry.Expires.Equal(g.Expires.Truncate(time.Millisecond)) {
			return nil
		}
		o.entry.Expires = g.Expires
		return t.open.Put([]byte(g.ID), o.encode())
	}
	if err := t.end(o, at, "extended by "+holder(g), &Traffic{g.Packets, g.Bytes}); err != nil {
		return err
	}
	e := entryOf(g)
	e.Event, e.Time, e.Opened, e.Traffic = Opened, at, at, &Traffic{g.Packets, g.Bytes}
	return t.begins(e)
}

// holder says who has opened or extended a grant.
func holder(g firewall.Grant) string {
	switch {
	case g.User != "":
		return "user " + g.User
	case g.Sequence != "":
		return "sequence " + g.Sequence
	}
	return "an administrator"
}

func (t *transaction) closed(g firewall.Grant, reason string, at time.Time) error {
	o, found, err := t.opening(g.ID)
	if err != nil {
		return err
	}
	if !found {
		o.entry = entryOf(g)
	}
	o.entry.Expires = g.Expires
	return t.end(o, at, reason, &Traffic{g.Packets, g.Bytes})
}

// end adds the entry of a grant's end. Total is what was counted over the whole
// grant; nil: unknown.
func (t *transaction) end(o opening, at time.Time, reason string, total *Traffic) error {
	e := o.entry
	e.Event, e.Time, e.Reason = Closed, at, reason
	if total != nil && e.Traffic != nil {
		total = &Traffic{total.Packets - min(total.Packets, e.Traffic.Packets), total.Bytes - min(total.Bytes, e.Traffic.Bytes)}
	}
	e.Traffic = total
	id, err := t.append(e)
	if err != nil || o.id == 0 {
		return err
	}
	return errors.Join(t.ends.Put(key(o.id), key(id)), t.open.Delete([]byte(e.Grant)))
}

func (t *transaction) opening(grant string) (o opening, found bool, err error) {
	value := t.open.Get([]byte(grant))
	if value == nil {
		return o, false, nil
	}
	o, err = decodeOpening(value)
	return o, err == nil, err
}

// settle makes the grants in openBucket those that run.
func (t *transaction) settle(running map[string]firewall.Grant, why settling, boot Boot) error {
	var gone []opening
	err := t.open.ForEach(func(grant, value []byte) error {
		if _, runs := running[string(grant)]; runs {
			return nil
		}
		o, err := decodeOpening(bytes.Clone(value))
		gone = append(gone, o)
		return err
	})
	booted := why == afterAStart && t.boot.Get(bootKey) != nil && string(t.boot.Get(bootKey)) != boot.ID
	for _, o := range gone {
		at, reason := t.now, unseen
		switch {
		case booted && o.entry.Expires.After(boot.At):
			at, reason = boot.At, reboot
		case why == afterAStart:
			reason = notRunning
		}
		if o.entry.Expires.Before(at) {
			at = o.entry.Expires
		}
		err = errors.Join(err, t.end(o, at, reason, nil))
	}
	for id, g := range running {
		if t.open.Get([]byte(id)) == nil {
			err = errors.Join(err, t.opened(g, g.Opened))
		}
	}
	if string(t.boot.Get(bootKey)) != boot.ID {
		err = errors.Join(err, t.boot.Put(bootKey, []byte(boot.ID)))
	}
	return err
}

// excess returns how many of the oldest entries are over the limits, as far as a look
// at maxRemoved of them can tell.
func (t *transaction) excess(limits Limits) uint64 {
	first, _ := t.entries.First()
	last, _ := t.entries.Last()
	if first == nil {
		return 0
	}
	all := idOf(last) - idOf(first) + 1
	if limits.Keep == 0 {
		return all
	}
	var old uint64
	t.entries.ForEach(func(_, value []byte) error {
		if at, err := timeOf(value); old == maxRemoved || err == nil && t.now.Sub(at) <= limits.Keep {
			return errEnough
		}
		old++
		return nil
	})
	return max(old, all-min(all, uint64(limits.Max)))
}

var errEnough = errors.New("enough")

// retain removes entries that are over the limits, and reports whether there are more.
func (t *transaction) retain(limits Limits) (more bool, err error) {
	excess := t.excess(limits)
	if excess > 0 {
		first, _ := t.entries.First()
		below := key(idOf(first) + min(excess, maxRemoved))
		if err := errors.Join(t.entries.DeleteBelow(below), t.ends.DeleteBelow(below)); err != nil {
			return false, err
		}
	}
	if limits.Keep == 0 && excess <= maxRemoved {
		return false, t.open.Replace(nil)
	}
	return excess >= maxRemoved, nil
}
