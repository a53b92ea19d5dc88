// Package atomicfile replaces small files as a whole, so that a crash leaves the old
// content or the new one, and a write that has returned survives a crash.
//
// [Replace] and [Create] are for files of an administrator. A [Dir] is a directory
// whose files one process at a time writes: the state directory.
//
// What is read or written without the daemon stays in such plain files, and out of
// the database of internal/store: the last good guard and configuration, and the
// sessions from before the guard (sessions.json). `webknock guard` at boot and
// `webknock unguard` need them, and must work whatever has become of the database.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Replace replaces a file that is there and may be written as a whole, or
// leaves it as it is. It keeps its owner, its group and its mode; a symbolic link
// goes on pointing to it. When it returns nil the new content is on the disk.
func Replace(path string, data []byte) error {
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

// replace replaces a file by one of mode 0600, prepared before it has its name.
func replace(path string, data []byte, prepare func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, temporary(filepath.Base(path))) // mode 0600
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

// temporary returns how the names of files begin that are to replace another.
func temporary(name string) string { return "." + name + "-" }

// Create writes a file that is not there yet, so that it survives a crash, or
// none. It has mode 0600 and belongs to uid and gid; -1 is the process's own.
func Create(path string, data []byte, uid, gid int) (err error) {
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

// SyncDir makes names that were added to a directory, or removed, durable (fsync(2)).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
