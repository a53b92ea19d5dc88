package admin

import (
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

// ErrInUse means that another daemon serves on the socket.
var ErrInUse = errors.New("another webknock serves here")

// listener accepts those who may connect.
type listener struct {
	*net.UnixListener
	lock *os.File
	path string
	gid  int // of the group, or -1
	log  *slog.Logger
}

// Listen makes the admin socket, mode 0660, for the group if there is one of
// that name. A socket that nobody serves is replaced; what is not a socket is
// left alone. A lock on a file beside it keeps two daemons from both doing so.
func Listen(path, group string, log *slog.Logger) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return fail(err)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		lock.Close()
		return fail(err)
	case info.Mode().Type() != fs.ModeSocket:
		lock.Close()
		return fail(errors.New("there is a file that is no socket (move it away, or choose another path)"))
	default:
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			lock.Close()
			return fail(ErrInUse)
		}
		if err := os.Remove(path); err != nil {
			lock.Close()
			return fail(err)
		}
	}
	mask := syscall.Umask(0o117) // never open to others, not even for a moment
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(mask)
	if err != nil {
		lock.Close()
		return fail(err)
	}
	gid := -1
	if g, err := user.LookupGroup(group); err != nil {
		log.Info("no such group: only root and the daemon's user may use the admin socket", "group", group)
	} else if id, err := strconv.Atoi(g.Gid); err == nil {
		gid = id
		if err := os.Chown(path, -1, gid); err != nil {
			log.Warn("cannot give the admin socket to its group", "group", group, "error", err)
		}
	}
	return &listener{UnixListener: l, lock: lock, path: path, gid: gid, log: log}, nil
}

// Accept returns the next connection of somebody who may use the API; others
// are closed.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		cred, groups, err := peer(conn)
		if err == nil && allowed(cred, groups, os.Geteuid(), l.gid) {
			return conn, nil
		}
		l.log.Warn("refused on the admin socket", "uid", cred.Uid, "pid", cred.Pid, "error", err)
		conn.Close()
	}
}

// Close removes the socket, and lets another daemon have it.
func (l *listener) Close() error {
	return errors.Join(l.UnixListener.Close(), l.lock.Close())
}

// allowed decides who may use the API: root, the daemon's own user, and the
// members of the group.
func allowed(cred unix.Ucred, groups []uint32, euid, gid int) bool {
	return cred.Uid == 0 || int(cred.Uid) == euid ||
		gid >= 0 && (int(cred.Gid) == gid || slices.Contains(groups, uint32(gid)))
}

// peer asks the kernel who is at the other end (unix(7), SO_PEERCRED and
// SO_PEERGROUPS).
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
