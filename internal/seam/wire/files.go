package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// copyFiles returns files with descriptors of their own. They are as they were, which
// os.File.Fd would not leave them.
func copyFiles(files []*os.File) (copies []*os.File, err error) {
	for _, f := range files {
		raw, err := f.SyscallConn()
		fd, dupErr := -1, error(nil)
		if err == nil {
			err = raw.Control(func(of uintptr) { fd, dupErr = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
		}
		if err = errors.Join(err, dupErr); err != nil {
			closeFiles(copies)
			return nil, fmt.Errorf("copy a descriptor: %w", err)
		}
		copies = append(copies, os.NewFile(uintptr(fd), f.Name()))
	}
	return copies, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// writeFiles sends descriptors, with one byte for every perMarker of them.
func writeFiles(socket *net.UnixConn, files []*os.File) error {
	for len(files) > 0 {
		n := min(len(files), perMarker)
		fds := make([]int, n)
		for i, f := range files[:n] {
			raw, err := f.SyscallConn()
			if err == nil {
				err = raw.Control(func(fd uintptr) { fds[i] = int(fd) }) // it is ours, and stays open
			}
			if err != nil {
				return err
			}
		}
		if _, _, err := socket.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil); err != nil {
			return err
		}
		files = files[n:]
	}
	return nil
}

// A fileReader reads bytes, and keeps the descriptors that come with them.
type fileReader struct {
	socket *net.UnixConn
	oob    []byte

	mu     sync.Mutex
	files  []*os.File
	closed bool
}

func newFileReader(socket *net.UnixConn) *fileReader {
	return &fileReader{socket: socket, oob: make([]byte, unix.CmsgSpace(4*253))}
}

// Read implements io.Reader.
func (r *fileReader) Read(p []byte) (int, error) {
	n, oobn, flags, _, err := r.socket.ReadMsgUnix(p, r.oob)
	if err != nil {
		return 0, err
	}
	if oobn > 0 {
		if err := r.keep(r.oob[:oobn]); err != nil {
			return n, err
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return n, &frameError{errors.New("more descriptors at once than there can be")}
	}
	return n, nil
}

func (r *fileReader) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "socket")
			if r.closed || len(r.files) >= maxFiles {
				f.Close()
				return &frameError{errors.New("too many descriptors")}
			}
			r.files = append(r.files, f)
		}
	}
	return nil
}

// take returns the next descriptors.
func (r *fileReader) take(n int) ([]*os.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > len(r.files) {
		return nil, fmt.Errorf("%d descriptors where %d were announced", len(r.files), n)
	}
	files := r.files[:n:n]
	r.files = r.files[n:]
	return files, nil
}

func (r *fileReader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	closeFiles(r.files)
	r.files = nil
}
