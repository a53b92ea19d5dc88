package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAFileIsReplacedAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if data, err := ReadFile(path, 10); data != nil || err != nil {
		t.Errorf("no file: %q, %v", data, err)
	}
	for _, content := range []string{"first", "second"} {
		if err := WriteFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if data, err := ReadFile(path, 10); string(data) != content || err != nil {
			t.Errorf("read %q, %v; want %q", data, err, content)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := ReadFile(path, 5); err == nil {
		t.Error("a file that is too large was read")
	}
}

func TestAFailureLeavesTheOldFileAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	if err := os.Mkdir(path, 0o700); err != nil { // what cannot be renamed over
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if err := WriteFile(filepath.Join(dir, "none", "state.json"), nil); err == nil {
		t.Error("a directory that is not there was written to")
	}
}

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
	if err := ReplaceFile(link, []byte("new")); err != nil {
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
	if err := ReplaceFile(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestACreatedFileIsNobodyElsesAndNeverAnOldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "alice.totp")
	if err := CreateFile(path, []byte("secret"), -1, -1); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := CreateFile(path, []byte("other"), -1, -1); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an old file: %v", err)
	}
	if data, err := os.ReadFile(path); string(data) != "secret" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
}
