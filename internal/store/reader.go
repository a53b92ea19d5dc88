package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"go.etcd.io/bbolt"
)

// A Reader reads the file of a state directory that no daemon uses. It holds the
// file's lock only while View runs, and changes nothing.
type Reader struct{ dir string }

// NewReader returns a reader of a directory, by its path.
func NewReader(dir string) Reader { return Reader{dir} }

// View is that of a Store.
func (r Reader) View(f func(*Tx) error) (err error) {
	path := filepath.Join(r.dir, fileName)
	db, err := openBolt(path, os.O_RDONLY, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f(&Tx{})
	case errors.As(err, new(*fs.PathError)): // it names the file
		return err
	case err != nil:
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer db.Close()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: it is damaged: %v", path, p)
		}
	}()
	id, err := check(db)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return db.View(func(tx *bbolt.Tx) error { return f(&Tx{tx, id}) })
}
