package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFilesAreReadableAsTheirModesSay(t *testing.T) {
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	stranger := account{uid: uid + 4711, groups: []uint32{gid + 4711}}
	member := account{uid: uid + 4711, groups: []uint32{gid + 4711, gid}}
	owner := account{uid: uid, groups: []uint32{gid + 4711}}
	dir := t.TempDir()
	for _, above := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(above, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		who       account
		dir, file os.FileMode
		stopped   string // "", file or dir
	}{
		{owner, 0o700, 0o600, ""},
		{owner, 0o700, 0o400, ""},
		{owner, 0o700, 0o077, "file"}, // the owner's bits count, not the others'
		{owner, 0o600, 0o600, "dir"},
		{member, 0o750, 0o640, ""},
		{member, 0o750, 0o600, "file"},
		{member, 0o700, 0o640, "dir"},
		{stranger, 0o755, 0o644, ""},
		{stranger, 0o755, 0o640, "file"},
		{stranger, 0o750, 0o644, "dir"},
	} {
		inner := filepath.Join(dir, "inner")
		file := filepath.Join(inner, "file")
		if err := os.Mkdir(inner, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(dir, "link")
		if err := os.Symlink(file, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, tt.file); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(inner, tt.dir); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"": "", "file": file, "dir": inner}[tt.stopped]
		for _, path := range []string{file, link} {
			if tt.dir == 0o600 && path == link && os.Getuid() != 0 {
				continue // this test cannot follow it either
			}
			if got := tt.who.stoppedAt(path); got != want {
				t.Errorf("%+v, directory %o, file %o: stopped at %q, want %q", tt.who, tt.dir, tt.file, got, want)
			}
		}
		os.Chmod(inner, 0o700)
		if err := os.RemoveAll(inner); err != nil {
			t.Fatal(err)
		}
		os.Remove(link)
	}
}

func TestFilesThatTheUnitCannotSeeCauseAWarning(t *testing.T) {
	cfg := &Config{File: "/etc/webknock/webknock.yaml", State: t.TempDir(), files: []namedFile{
		{"/home/alice/alice.totp", Error{File: "w.yaml", Line: 3, Col: 7, Key: "users[0].totp_file"}},
	}}
	warnings := unreadable(cfg)
	if os.Getuid() != 0 { // the owner of state has just read them
		if len(warnings) > 0 {
			t.Errorf("%v", warnings)
		}
		return
	}
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0].Error(), "w.yaml:3:7: users[0].totp_file: webknock.service does not see /home/alice/alice.totp") {
		t.Errorf("%v", warnings)
	}
}
