package store

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/bbolt"
)

// The bucket that every file has, and its keys: the version of the schema, and
// the id of the file.
var (
	metaBucket = []byte("meta")
	versionKey = []byte("version")
	idKey      = []byte("id")
)

// initialize writes what makes an empty bbolt file a store.
func initialize(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	return errors.Join(b.Put(versionKey, binary.BigEndian.AppendUint64(nil, schemaVersion)), b.Put(idKey, []byte(rand.Text())))
}

// check returns the id of a file, or an error if this version of webknock does not
// know its schema.
func check(db *bbolt.DB) (id string, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(metaBucket)
		if b == nil || len(b.Get(versionKey)) != 8 {
			return errors.New("it is not a file of webknock" + hint)
		}
		if found := binary.BigEndian.Uint64(b.Get(versionKey)); found != schemaVersion {
			return fmt.Errorf("another version of webknock wrote it (schema %d; this one knows %d)", found, schemaVersion)
		}
		id = string(b.Get(idKey))
		return nil
	})
	return id, err
}

// Tx is a transaction: reads see one state, and writes are carried out together
// or not at all.
type Tx struct {
	tx *bbolt.Tx // nil: there is no file, and it is only read
	id string
}

// ID identifies the file. It changes when the file is replaced, so that a writer learns that its
// earlier writes are not in the file.
func (t *Tx) ID() string { return t.id }

// Exists reports whether a bucket was ever written to.
func (t *Tx) Exists(name string) bool { return t.tx != nil && t.tx.Bucket([]byte(name)) != nil }

// Bucket returns a bucket by name, and makes it in a transaction that writes. In
// one that reads it is empty if it does not exist.
func (t *Tx) Bucket(name string) (Bucket, error) {
	if t.tx == nil {
		return Bucket{}, nil
	}
	if !t.tx.Writable() {
		return Bucket{t.tx.Bucket([]byte(name))}, nil
	}
	b, err := t.tx.CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return Bucket{}, diskError{err}
	}
	return Bucket{b}, nil
}

// Bucket is a sorted table of keys and values.
type Bucket struct{ b *bbolt.Bucket }

// Get returns the value of a key, or nil.
func (b Bucket) Get(key []byte) []byte {
	if b.b == nil {
		return nil
	}
	return b.b.Get(key)
}

// Put sets the value of a key.
func (b Bucket) Put(key, value []byte) error { return disk(b.b.Put(key, value)) }

// Append sets the value of a key that is greater than all others. It packs the
// values tighter than Put, which leaves room between them.
func (b Bucket) Append(key, value []byte) error {
	b.b.FillPercent = 1
	return disk(b.b.Put(key, value))
}

// First returns the least key and its value, or nil.
func (b Bucket) First() (key, value []byte) {
	if b.b == nil {
		return nil, nil
	}
	return b.b.Cursor().First()
}

// Last returns the greatest key and its value, or nil.
func (b Bucket) Last() (key, value []byte) {
	if b.b == nil {
		return nil, nil
	}
	return b.b.Cursor().Last()
}

// Delete removes a key. A key that does not exist is no error.
func (b Bucket) Delete(key []byte) error { return disk(b.b.Delete(key)) }

// DeleteBelow removes the keys that are less than a key.
func (b Bucket) DeleteBelow(key []byte) error {
	c := b.b.Cursor()
	for k, _ := c.First(); k != nil && bytes.Compare(k, key) < 0; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return disk(err)
		}
	}
	return nil
}

// Replace replaces the contents of a bucket by the given keys and values. It writes only
// differences.
func (b Bucket) Replace(values map[string][]byte) error {
	var gone [][]byte
	err := b.ForEach(func(key, _ []byte) error {
		if _, stays := values[string(key)]; !stays {
			gone = append(gone, bytes.Clone(key))
		}
		return nil
	})
	for _, key := range gone {
		err = errors.Join(err, b.Delete(key))
	}
	for _, key := range slices.Sorted(maps.Keys(values)) { // in order bbolt need not move what it has
		value := values[key]
		if old := b.Get([]byte(key)); old == nil || !bytes.Equal(old, value) {
			err = errors.Join(err, b.Put([]byte(key), value))
		}
	}
	return err
}

// ForEach calls f for every key in order, until f returns an error. f must not
// change the bucket.
func (b Bucket) ForEach(f func(key, value []byte) error) error {
	if b.b == nil {
		return nil
	}
	return b.b.ForEach(f)
}

// Reverse calls f for every key from the last one below before (nil: from the
// last) towards the first, until f returns false.
func (b Bucket) Reverse(before []byte, f func(key, value []byte) bool) {
	if b.b == nil {
		return
	}
	c := b.b.Cursor()
	var key, value []byte
	if before == nil {
		key, value = c.Last()
	} else if key, _ = c.Seek(before); key == nil {
		key, value = c.Last()
	} else {
		key, value = c.Prev()
	}
	for key != nil && f(key, value) {
		key, value = c.Prev()
	}
}

// NextSequence returns the next of a series of numbers that the bucket keeps,
// from 1.
func (b Bucket) NextSequence() (uint64, error) {
	n, err := b.b.NextSequence()
	return n, disk(err)
}

// ownError marks an error that a caller's function returned, to distinguish it from an error
// of the disk.
type ownError struct{ error }

func (e ownError) Unwrap() error { return e.error }

func own(err error) error {
	var of diskError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &of):
		return of.error
	}
	return ownError{err}
}

func isOwn(err error) bool { return errors.As(err, new(ownError)) }

// diskError marks an error that bbolt returned to a caller's function.
type diskError struct{ error }

func disk(err error) error {
	if err == nil {
		return nil
	}
	return diskError{err}
}
