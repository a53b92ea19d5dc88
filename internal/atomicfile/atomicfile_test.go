package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAReplacedFileKeepsOwnerModeAndLink(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "w.yaml"), filepath.Join(dir, "link")
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // who alone may give files away
		uid, gid = 1234, 4321
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("w.yaml", link); err != nil {
		t.Fatal(err)
	}
	if err := Replace(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); info.Mode() != 0o640 || int(s.Uid) != uid || int(s.Gid) != gid {
		t.Errorf("mode %v, owner %d:%d", info.Mode(), s.Uid, s.Gid)
	}
	if data, err := os.ReadFile(path); string(data) != "new" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
	if to, err := os.Readlink(link); to != "w.yaml" || err != nil {
		t.Errorf("the link points to %q, %v", to, err)
	}
	if err := Replace(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestACreatedFileIsPrivateAndNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "alice.totp")
	if err := Create(path, []byte("secret"), -1, -1); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := Create(path, []byte("other"), -1, -1); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an old file: %v", err)
	}
	if data, err := os.ReadFile(path); string(data) != "secret" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
}
