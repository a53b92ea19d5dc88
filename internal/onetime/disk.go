package onetime

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"webknock/internal/store"
	"webknock/internal/ticket"
)

// Disk is the Store of a single host: three buckets of the file in the state
// directory. A ticket's key begins with its time, so that old ones are removed
// without reading the others.
type Disk struct {
	file *store.Store

	mu sync.Mutex
	id string // of the file that holds what was loaded and recorded; empty: any file
}

const (
	counterBucket = "onetime counters" // key id → the latest counter used
	ticketBucket  = "onetime tickets"  // time, key id, nonce → nothing
	markBucket    = "onetime mark"     // markKey → the mark
	oldFile       = "onetime.json"     // of versions before
	oldVersion    = 1
)

var markKey = []byte("mark")

// NewDisk returns a store in a file. It takes over what versions before kept in
// onetime.json.
func NewDisk(file *store.Store) *Disk { return &Disk{file: file} }

// Load implements Store.
func (d *Disk) Load() (Used, error) {
	err := d.file.TakeOver(oldFile, func(tx *store.Tx, content []byte) error {
		used, err := decodeOld(content)
		if err != nil {
			return fmt.Errorf("%s is damaged: %w (put a copy back; or move it away, wait two minutes, and all that was used before counts as unused, except for its time)", d.file.OldPath(oldFile), err)
		}
		return put(tx, used)
	})
	if err != nil {
		return Used{}, err
	}
	var used Used
	var id string
	err = d.file.View(func(tx *store.Tx) (err error) {
		id = tx.ID()
		used, err = get(tx)
		return err
	})
	if err != nil {
		return Used{}, err
	}
	d.holds(id)
	return used, nil
}

// Record implements Store.
func (d *Disk) Record(used Used, done func(error)) {
	var id string
	d.file.Submit(store.Write{
		Do: func(tx *store.Tx) error {
			id = tx.ID()
			if d.lacks(id) {
				return ErrForgotten
			}
			return put(tx, used)
		},
		Done: func(err error) {
			if err == nil || errors.Is(err, ErrForgotten) {
				d.holds(id)
			}
			done(err)
		},
	})
}

func (d *Disk) lacks(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id != "" && d.id != id
}

func (d *Disk) holds(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.id = id
}

// put adds uses to the buckets.
func put(tx *store.Tx, used Used) error {
	counters, err1 := tx.Bucket(counterBucket)
	tickets, err2 := tx.Bucket(ticketBucket)
	marks, err3 := tx.Bucket(markBucket)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	for id, s := range used.Secrets {
		if s.Counter > number(counters.Get(id[:])) {
			if err := counters.Put(id[:], bytesOf(s.Counter)); err != nil {
				return err
			}
		}
		for n, at := range s.Tickets {
			if err := tickets.Put(ticketKey(at, id, n), nil); err != nil {
				return err
			}
		}
	}
	if used.Mark <= number(marks.Get(markKey)) {
		return nil
	}
	if err := marks.Put(markKey, bytesOf(used.Mark)); err != nil {
		return err
	}
	return tickets.DeleteBelow(bytesOf(used.Forgotten()))
}

// get returns what the buckets hold.
func get(tx *store.Tx) (Used, error) {
	counters, err1 := tx.Bucket(counterBucket)
	tickets, err2 := tx.Bucket(ticketBucket)
	marks, err3 := tx.Bucket(markBucket)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Used{}, err
	}
	used := NewUsed()
	if mark := marks.Get(markKey); mark != nil && len(mark) != 8 {
		return Used{}, fmt.Errorf("the record of used codes is damaged: time %x", mark)
	} else {
		used.Mark = number(mark)
	}
	err := counters.ForEach(func(key, value []byte) error {
		if len(key) != len(ticket.KeyID{}) || len(value) != 8 {
			return fmt.Errorf("the record of used codes is damaged: counter %x of secret %x", value, key)
		}
		used.Of(ticket.KeyID(key)).Counter = number(value)
		return nil
	})
	if err != nil {
		return Used{}, err
	}
	return used, tickets.ForEach(func(key, _ []byte) error {
		var id ticket.KeyID
		var n ticket.Nonce
		if len(key) != 8+len(id)+len(n) {
			return fmt.Errorf("the record of used tickets is damaged: key %x", key)
		}
		copy(id[:], key[8:])
		copy(n[:], key[8+len(id):])
		used.Of(id).Tickets[n] = number(key[:8])
		return nil
	})
}

func ticketKey(at int64, id ticket.KeyID, n ticket.Nonce) []byte {
	return append(append(bytesOf(at), id[:]...), n[:]...)
}

// bytesOf returns a number as eight bytes that sort as numbers do, negative ones
// included; number reads them, and 0 of nothing.
func bytesOf(n int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(n)^1<<63)
}

func number(b []byte) int64 {
	if len(b) < 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b) ^ (math.MaxInt64 + 1))
}

// decodeOld reads the file of versions before.
func decodeOld(data []byte) (Used, error) {
	var f struct {
		Version int `json:"version"`
		Used
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return Used{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return Used{}, errors.New("something follows behind its end")
	}
	if f.Version != oldVersion || f.Secrets == nil || f.Mark < 0 {
		return Used{}, fmt.Errorf("not a file of version %d", oldVersion)
	}
	for id, s := range f.Secrets {
		if s == nil || s.Tickets == nil || s.Counter < 0 {
			return Used{}, fmt.Errorf("secret %x has no counter or no tickets", id)
		}
	}
	return f.Used, nil
}
