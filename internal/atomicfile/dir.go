package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Dir is a directory whose files one process at a time reads and writes: of
// two, each would forget what the other has written. It may be used from several
// goroutines.
type Dir struct {
	path string

	mu     sync.Mutex
	locked *os.File // the directory itself, locked (flock(2)); nil: not yet
}

// ErrOwned is the error if another process has the directory.
var ErrOwned = errors.New("another webknock keeps its state there (give each a directory of its own: state)")

// NewDir returns a directory, which need not be there and is not touched yet.
func NewDir(path string) *Dir { return &Dir{path: path} }

// Path returns the path of one of the directory's files.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Own makes the directory if there is none, with mode 0700, and keeps other
// processes away from it until Close or the end of this one. It works on a file
// system that is full or read-only, and costs little if it has been done.
func (d *Dir) Own() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := makeDir(d.path); err != nil {
		return err
	}
	if d.locked != nil && d.stands() {
		return nil
	}
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			err = ErrOwned
		}
		return fmt.Errorf("lock %s: %w", d.path, err)
	}
	if d.locked != nil {
		d.locked.Close()
	}
	d.locked = f
	return nil
}

// stands reports whether the directory that is locked is still the one of its
// name.
func (d *Dir) stands() bool {
	locked, err := d.locked.Stat()
	named, err2 := os.Stat(d.path)
	return err == nil && err2 == nil && os.SameFile(locked, named)
}

// Close lets other processes have the directory.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locked == nil {
		return nil
	}
	err := d.locked.Close()
	d.locked = nil
	return err
}

// Read owns the directory and returns what Write wrote last, or nil if there is
// no such file. One of more than max bytes is an error. What a Write left behind
// that a kill broke off is removed.
func (d *Dir) Read(name string, max int64) ([]byte, error) {
	if err := d.Own(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary(name)) {
			os.Remove(d.Path(e.Name())) // no harm in what stays
		}
	}
	f, err := os.Open(d.Path(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("read %s: larger than %d bytes", f.Name(), max)
	}
	return data, err
}

// Write owns the directory and replaces a file as a whole, or leaves it as it
// is: when it returns nil the new content is on the disk, under that name, even
// if the machine loses power at once (fsync(2) of the file and of the directory).
// The file has mode 0600. What root writes belongs to the owner of the directory: a
// daemon that is not root has to read it.
func (d *Dir) Write(name string, data []byte) error {
	if err := d.Own(); err != nil {
		return err
	}
	return replace(d.Path(name), data, func(f *os.File) error {
		if os.Geteuid() != 0 {
			return nil
		}
		info, err := os.Stat(d.path)
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		if owner.Uid == 0 {
			return nil
		}
		return f.Chown(int(owner.Uid), int(owner.Gid))
	})
}

// makeDir makes a directory, and those above it, so that they survive a crash.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return SyncDir(parent)
}
