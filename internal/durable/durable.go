// Package durable writes files so that they survive a crash and a reboot.
package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile replaces a file as a whole, or leaves it as it is: when it returns
// nil the new content is on the disk, under that name, even if the machine
// loses power at once (fsync(2) of the file and of its directory). The file has
// mode 0600; its directory must be there.
func WriteFile(path string, data []byte) error {
	return replace(path, data, func(*os.File) error { return nil })
}

// ReplaceFile is WriteFile for a file that is there and may be written: it keeps
// its owner, its group and its mode. A symbolic link goes on pointing to it.
func ReplaceFile(path string, data []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	old, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	info, err := old.Stat()
	if err != nil {
		return err
	}
	return replace(path, data, func(f *os.File) error {
		stat := info.Sys().(*syscall.Stat_t)
		if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
			return err
		}
		return f.Chmod(info.Mode())
	})
}

// replace is WriteFile that prepares the new file before it has its name.
func replace(path string, data []byte, prepare func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = prepare(f)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// CreateFile writes a file that is not there yet, so that it survives a crash, or
// none. It has mode 0600 and belongs to uid and gid; -1 is the process's own.
func CreateFile(path string, data []byte, uid, gid int) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chown(uid, gid), f.Sync(), f.Close()); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes names that were added to a directory durable (fsync(2)).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadFile returns what WriteFile wrote last, or nothing if there is no such
// file. One of more than max bytes is an error.
func ReadFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("read %s: larger than %d bytes", path, max)
	}
	return data, err
}
