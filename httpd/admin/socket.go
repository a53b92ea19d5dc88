package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Group is the group whose members may use the API.
const Group = "webknock"

// ErrInUse means that another daemon uses the socket.
var ErrInUse = errors.New("another webknock serves here")

// A listener accepts connections of users who may use the API.
type listener struct {
	*net.UnixListener
	lock *os.File
	path string
	file fs.FileInfo // the socket at path, as it was made
	gid  int         // of the group; -1: there is none
	// noGroup is the name of the group if it does not exist. Serve logs that, and not
	// Listen: a start that fails should say nothing but why.
	noGroup string
	log     *slog.Logger
}

// Listen makes the admin socket with mode 0660, owned by the group if that exists. It
// replaces a socket that no daemon uses any more. It returns an error if anything else
// is at the path, or a socket that may be in use. A lock on a file beside the socket
// keeps two daemons from doing this at once.
func Listen(path, group string, log *slog.Logger) (_ net.Listener, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("admin socket %s: %w", path, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrInUse
	} else if err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		// When the socket is bound, the file gets the socket's mode less the umask. So
		// the file is never open to others, not even for a moment.
		var err error
		ctrl := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o660) })
		return errors.Join(ctrl, err)
	}}
	bound, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	l := &listener{UnixListener: bound.(*net.UnixListener), lock: lock, path: path, gid: -1, log: log}
	l.SetUnlinkOnClose(false)
	if l.file, err = os.Lstat(path); err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		bound.Close()
		return nil, err
	}
	if g, err := user.LookupGroup(group); err != nil {
		l.noGroup = group
	} else if id, err := strconv.Atoi(g.Gid); err == nil {
		l.gid = id
		if err := os.Chown(path, -1, id); err != nil {
			log.Warn("cannot give the admin socket to its group", "group", group, "error", err)
		}
	}
	return l, nil
}

// removeStale removes a stream socket that no daemon uses, and returns an error if
// anything else is there.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is not a socket (move it away, or choose another path)")
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return ErrInUse
	case errors.Is(err, unix.EAGAIN): // its queue is full
		return ErrInUse
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("there is a socket that may be in use (remove it, or choose another path): %w", err)
}

// Accept returns the next connection of a user who may use the API. It closes all
// others.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		cred, groups, err := peer(conn)
		if err == nil && allowed(cred, groups, os.Geteuid(), l.gid) {
			return &peerConn{conn, Credentials{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}}, nil
		}
		l.log.Warn("refused on the admin socket", "uid", cred.Uid, "pid", cred.Pid, "error", err)
		conn.Close()
	}
}

// Close removes the socket, unless another file has taken its place, and unlocks it.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if there, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(there, l.file) {
		err = errors.Join(err, os.Remove(l.path))
	}
	return errors.Join(err, l.lock.Close())
}

// allowed reports whether a user may use the API: root, the daemon's own user, and the
// members of the group may.
func allowed(cred unix.Ucred, groups []uint32, euid, gid int) bool {
	return cred.Uid == 0 || int(cred.Uid) == euid ||
		gid >= 0 && (int(cred.Gid) == gid || slices.Contains(groups, uint32(gid)))
}

// peer returns the user at the other end of a connection and their groups (unix(7),
// SO_PEERCRED and SO_PEERGROUPS).
func peer(conn *net.UnixConn) (cred unix.Ucred, groups []uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return cred, nil, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		c, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = err
			return
		}
		cred = *c
		groups, inner = peerGroups(fd)
	})
	return cred, groups, errors.Join(err, inner)
}

func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(4 * len(groups))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && int(size) > 4*len(groups):
			groups = make([]uint32, size/4)
		case errno != 0:
			return nil, errno
		default:
			return groups[:size/4], nil
		}
	}
}
