package config

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A namedFile is a file that a configuration names, and the place where it does.
type namedFile struct {
	path  string
	where Error
}

// hidden are the directories that the unit's ProtectHome= hides from the daemon.
var hidden = []string{"/home/", "/root/", "/run/user/"}

// unreadable returns a warning for each file that a daemon started by
// webknock.service could not read: the configuration and the files it names. That
// daemon runs as the owner of the state directory, or as root, but never with the
// capability to ignore file modes (CAP_DAC_READ_SEARCH). If there is no state
// directory and the caller is not root, there is nothing to warn of.
func unreadable(cfg *Config) Errors {
	reader := account{}
	if info, err := os.Stat(cfg.State); err == nil {
		stat := info.Sys().(*syscall.Stat_t)
		reader = accountOf(stat.Uid, stat.Gid)
	} else if os.Geteuid() != 0 {
		return nil
	}
	if reader.uid != 0 && int(reader.uid) == os.Geteuid() {
		return nil // this process, which is the same user, has just read them
	}
	var all Errors
	for _, f := range append([]namedFile{{cfg.File, Error{File: cfg.File}}}, cfg.files...) {
		w := f.where
		path, err := filepath.Abs(f.path)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(hidden, func(dir string) bool { return strings.HasPrefix(path, dir) }) {
			w.Msg = fmt.Sprintf("webknock.service does not see %s, since its ProtectHome= hides that directory (below /etc/webknock)", path)
			all = append(all, w)
			continue
		}
		if at := reader.stoppedAt(path); at != "" {
			w.Msg = fmt.Sprintf("webknock.service could not read %s: %s (chown %s %s, or grant it by the mode)", path, reader.why(path, at), reader.name(), at)
			all = append(all, w)
		}
	}
	return all
}

// An account is the user and the groups of a process. The zero account is root.
type account struct {
	uid    uint32
	groups []uint32
}

func accountOf(uid, gid uint32) account {
	a := account{uid, []uint32{gid}}
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil && uid != 0 {
		groups, _ := u.GroupIds()
		for _, g := range groups {
			if id, err := strconv.ParseUint(g, 10, 32); err == nil {
				a.groups = append(a.groups, uint32(id))
			}
		}
	}
	return a
}

func (a account) name() string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(a.uid), 10)); err == nil {
		return u.Username
	}
	return strconv.FormatUint(uint64(a.uid), 10)
}

// stoppedAt returns the file, or the directory on the way to it, whose mode keeps an
// account without capabilities from reading the file. If none does, it returns "".
func (a account) stoppedAt(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if !a.may(dir, 1) {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	if !a.may(path, 4) {
		return path
	}
	return ""
}

// may reports whether the mode of a file grants a permission: 4 to read a file, 1
// to enter a directory.
func (a account) may(path string, permission os.FileMode) bool {
	info, err := os.Stat(path)
	if err != nil {
		return true // the loader reports files that are missing
	}
	stat := info.Sys().(*syscall.Stat_t)
	shift := 0
	switch {
	case stat.Uid == a.uid:
		shift = 6
	case stat.Gid == 0 && a.uid == 0, slices.Contains(a.groups, stat.Gid):
		shift = 3
	}
	return info.Mode().Perm()>>shift&permission != 0
}

// why says to whom the file or directory belongs that keeps an account from reading
// a file.
func (a account) why(path, at string) string {
	info, err := os.Stat(at)
	if err != nil {
		return err.Error()
	}
	stat := info.Sys().(*syscall.Stat_t)
	owner := account{uid: stat.Uid}
	if at == path {
		at = "it"
	}
	return fmt.Sprintf("%s belongs to %s, with mode %04o, and webknock.service gives %s no capability to ignore that", at, owner.name(), info.Mode().Perm(), a.name())
}
