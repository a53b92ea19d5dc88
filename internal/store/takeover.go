package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"webknock/internal/atomicfile"
)

// takenOver is the bucket that says which files of earlier versions are in the
// store: name → SHA-256 of the content.
const takenOver = "taken over"

// maxOld is how large such a file may be, in bytes.
const maxOld = 256 << 20

// TakeOver moves a file of an earlier version of webknock, by its name in the
// directory, into the store: do writes the content in one transaction, and then
// the file is removed. If there is no such file TakeOver does nothing. A crash
// in between does no harm: what is in the store already is not taken over again.
// If do returns an error the file stays.
func (s *Store) TakeOver(name string, do func(tx *Tx, content []byte) error) error {
	path := s.dir.Path(name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.dir.Own(); err != nil { // else another process may be about to replace it
		return err
	}
	if left, err := filepath.Glob(s.dir.Path("." + name + "-*")); err == nil { // by writes that a crash broke off
		for _, l := range left {
			os.Remove(l)
		}
	}
	content, err := readFile(path, maxOld)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	err = s.Update(func(tx *Tx) error {
		b, err := tx.Bucket(takenOver)
		if err != nil || bytes.Equal(b.Get([]byte(name)), sum[:]) {
			return err
		}
		if err := do(tx, content); err != nil {
			return err
		}
		return b.Put([]byte(name), sum[:])
	})
	if err != nil {
		return err
	}
	if os.Remove(path) == nil { // a file that stays is harmless: it has been taken over
		return atomicfile.SyncDir(filepath.Dir(path))
	}
	return nil
}

// OldPath returns where a file of an earlier version of webknock is.
func (s *Store) OldPath(name string) string { return s.dir.Path(name) }

func readFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(content)) > max {
		err = fmt.Errorf("read %s: larger than %d bytes", path, max)
	}
	return content, err
}
