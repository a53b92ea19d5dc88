package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAFileIsReplacedAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "above", "state")
	dir := NewDir(path)
	if data, err := dir.Read("x.json", 10); data != nil || err != nil {
		t.Errorf("no file: %q, %v", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
	for _, content := range []string{"first", "second"} {
		if err := dir.Write("x.json", []byte(content)); err != nil {
			t.Fatal(err)
		}
		if data, err := dir.Read("x.json", 10); string(data) != content || err != nil {
			t.Errorf("read %q, %v; want %q", data, err, content)
		}
	}
	if info, err := os.Stat(dir.Path("x.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := dir.Read("x.json", 5); err == nil {
		t.Error("a file that is too large was read")
	}
}

func TestAFailureLeavesTheOldFileAndNothingElse(t *testing.T) {
	dir := NewDir(t.TempDir())
	if err := os.Mkdir(dir.Path("x.json"), 0o700); err != nil { // what cannot be renamed over
		t.Fatal(err)
	}
	if err := dir.Write("x.json", []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir.path); err != nil || len(entries) != 1 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if err := NewDir(dir.Path("x.json/y/z")).Own(); err != nil {
		t.Error(err)
	}
	if err := NewDir("/dev/null/state").Write("x.json", nil); err == nil {
		t.Error("a file was taken for a directory")
	}
}

func TestOnlyFilesLeftByAKilledWriteAreRemoved(t *testing.T) {
	dir := NewDir(filepath.Join(t.TempDir(), "[state]*"))
	if err := dir.Write("x.json", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".x.json-123", ".y.json-123", "x.json-1"} {
		if err := os.WriteFile(dir.Path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := dir.Read("x.json", 10); string(data) != "x" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
	entries, err := os.ReadDir(dir.path)
	if err != nil || len(entries) != 3 || entries[0].Name() != ".y.json-123" {
		t.Errorf("left are %v, %v", entries, err)
	}
}

func TestOneProcessAtATimeOwnsADirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	first, second := NewDir(path), NewDir(path)
	if err := first.Write("x.json", []byte("first")); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Read("x.json", 10); !errors.Is(err, ErrOwned) {
		t.Errorf("a second one reads: %v", err)
	}
	if err := second.Write("x.json", []byte("second")); !errors.Is(err, ErrOwned) {
		t.Errorf("a second one writes: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err := second.Read("x.json", 10); string(data) != "first" || err != nil {
		t.Errorf("the next one reads %q, %v", data, err)
	}
	if err := first.Write("x.json", nil); !errors.Is(err, ErrOwned) {
		t.Errorf("the first writes once more: %v", err)
	}
}

// A directory that has taken the place of another is owned as well.
func TestADirectoryThatIsReplacedIsOwnedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	first, second := NewDir(path), NewDir(path)
	if err := first.Own(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := second.Own(); err != nil {
		t.Fatal(err)
	}
	if err := first.Write("x.json", nil); !errors.Is(err, ErrOwned) {
		t.Errorf("both write: %v", err)
	}
	second.Close()
	if err := first.Write("x.json", nil); err != nil {
		t.Error(err)
	}
	if err := second.Own(); !errors.Is(err, ErrOwned) {
		t.Errorf("both own it: %v", err)
	}
}

// What root writes by hand the daemon can read, which may be another user.
func TestWhatRootWritesBelongsToTheOwnerOfTheDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	path := t.TempDir()
	if err := os.Chown(path, 1234, 4321); err != nil {
		t.Fatal(err)
	}
	d := NewDir(path)
	defer d.Close()
	if err := d.Write("file", []byte("x")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(d.Path("file"))
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != 1234 || s.Gid != 4321 || info.Mode() != 0o600 {
		t.Errorf("owner %d:%d, mode %v", s.Uid, s.Gid, info.Mode())
	}
}
