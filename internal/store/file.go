package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"webknock/internal/atomicfile"
)

// file is the bbolt file: opened when it is used, again after an error, and
// closed when it is idle.
type file struct {
	dir Dir

	mu       sync.Mutex // held while the file is used
	db       *bbolt.DB  // nil: not open
	id       string     // of the file that is open, as Tx.ID returns it
	readOnly bool       // db was opened for reading only
	info     os.FileInfo
	idle     *time.Timer
	closed   bool
}

func (f *file) path() string { return f.dir.Path(fileName) }

// use runs do in a transaction. An error that is not do's own closes the file. A
// panic or a memory fault over a damaged file or a disk that is gone becomes an
// error: bbolt maps the file into memory.
func (f *file) use(write bool, do func(*Tx) error) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch err := f.open(write); {
	case err == errNoFile:
		return do(&Tx{})
	case err != nil:
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged: %v%s", p, hint)
		}
		if err != nil && !isOwn(err) {
			f.drop()
			err = fmt.Errorf("%s: %w", f.path(), err)
		}
		if f.db != nil { // the timer may have found the file in use
			f.idle.Reset(idleAfter)
		}
	}()
	run := f.db.View
	if write {
		run = f.db.Update
	}
	return run(func(tx *bbolt.Tx) error { return do(&Tx{tx, f.id}) })
}

// hint says what to do about a damaged file.
const hint = " (put a copy back; or move it away, wait two minutes, and webknock begins anew: one-time codes that were used before count as unused, except for their time)"

// errNoFile: there is no file, and it is only to be read.
var errNoFile = errors.New("no file yet")

// open opens the file unless it is open, and makes it if it is to be written.
// The caller holds f.mu.
func (f *file) open(write bool) error {
	if f.closed {
		return ErrClosed
	}
	if err := f.dir.Own(); err != nil {
		f.drop()
		return err
	}
	info, err := os.Stat(f.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.drop()
		if !write {
			return errNoFile
		}
		if err := create(f.path()); err != nil {
			return fmt.Errorf("create %s: %w", f.path(), err)
		}
		if info, err = os.Stat(f.path()); err != nil {
			return err
		}
	case err != nil:
		f.drop()
		return err
	}
	if f.db != nil && os.SameFile(info, f.info) && !(write && f.readOnly) {
		f.idle.Reset(idleAfter)
		return nil
	}
	f.drop()
	db, readOnly, err := openDB(f.path(), write)
	var id string
	if err == nil {
		id, err = check(db)
	}
	if err != nil {
		if db != nil {
			db.Close()
		}
		if errors.As(err, new(*fs.PathError)) { // it names the file
			return err
		}
		return fmt.Errorf("open %s: %w", f.path(), err)
	}
	f.db, f.id, f.readOnly, f.info = db, id, readOnly, info
	if f.idle == nil {
		f.idle = time.AfterFunc(idleAfter, f.closeIdle)
	} else {
		f.idle.Reset(idleAfter)
	}
	return nil
}

// closeIdle closes the file after it was not used for a while.
func (f *file) closeIdle() {
	if f.mu.TryLock() { // else it is in use, and its timer is set again after that
		defer f.mu.Unlock()
		f.drop()
	}
}

// drop closes the file. The caller holds f.mu.
func (f *file) drop() error {
	if f.db == nil {
		return nil
	}
	f.idle.Stop()
	err := f.db.Close()
	f.db = nil
	return err
}

// close closes the file for good.
func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return f.drop()
}

// openDB opens an existing file for writing or, if only reading is asked for and
// the file system is read-only, for reading.
func openDB(path string, write bool) (db *bbolt.DB, readOnly bool, err error) {
	db, err = openBolt(path, os.O_RDWR, false)
	if !write && (errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)) {
		db, err = openBolt(path, os.O_RDONLY, true)
		return db, true, err
	}
	return db, false, err
}

func openBolt(path string, flag int, readOnly bool) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("it is damaged: %v%s", p, hint)
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly,
		OpenFile: func(name string, _ int, mode os.FileMode) (*os.File, error) { return os.OpenFile(name, flag, mode) },
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, errors.New("another program has the file open")
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fmt.Errorf("it is damaged or not a file of webknock: %w%s", err, hint)
	case err != nil && !errors.As(err, new(*fs.PathError)) && !errors.As(err, new(syscall.Errno)):
		return nil, fmt.Errorf("it is damaged: %w%s", err, hint)
	}
	return db, err
}

// create makes a file with nothing but its version and id. It gets its name when
// it is complete, so that no crash and no full disk leave half a file behind.
func create(path string) (err error) {
	temporary := filepath.Join(filepath.Dir(path), "."+fileName+"-new")
	os.Remove(temporary) // left by a crash; if it stays, the next step fails
	defer func() {
		if err != nil {
			os.Remove(temporary)
		}
	}()
	db, err := openBolt(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, false)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Update(initialize), db.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}
