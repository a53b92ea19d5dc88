package httpd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"webknock/httpd/eventloop"
)

// A pieces is a connection on which data comes in pieces.
type pieces struct {
	net.Conn
	all [][]byte
}

func (p *pieces) Read(to []byte) (int, error) {
	if len(p.all) == 0 {
		return 0, io.EOF
	}
	n := copy(to, p.all[0])
	if p.all[0] = p.all[0][n:]; len(p.all[0]) == 0 {
		p.all = p.all[1:]
	}
	return n, nil
}

// Event loops and goroutines find the same end of a head, in whatever pieces it
// comes.
func FuzzHeadsInPieces(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\nrest"), 15, 16)
	f.Add([]byte("GET / HTTP/1.1\n\n"), 15, 0)
	f.Add(bytes.Repeat([]byte("x\n"), MaxHead), 1000, MaxHead)
	f.Add(append(bytes.Repeat([]byte("x"), MaxHead-1), "\n\nx"...), MaxHead, 1)
	f.Fuzz(func(t *testing.T, data []byte, first, second int) {
		a := max(0, min(first, len(data)))
		b := a + max(0, min(second, len(data)-a))
		var all [][]byte
		for _, piece := range [][]byte{data[:a], data[a:b], data[b:]} {
			if len(piece) > 0 {
				all = append(all, piece)
			}
		}
		scanner := eventloop.Scanner{Max: MaxHead}
		var looped []byte
		ended := false
		for _, piece := range all {
			for len(piece) > 0 && !ended {
				n := min(len(piece), MaxHead+1-len(looped)) // as resume reads
				looped, piece = append(looped, piece[:n]...), piece[n:]
				var end int
				if end, ended = scanner.End(looped); ended {
					looped = looped[:end]
				}
			}
		}
		read := getBuffer()
		complete := readHead(&pieces{all: all}, read) == nil
		if complete != ended || complete && !bytes.Equal(read.bytes, looped) {
			t.Errorf("a goroutine reads %q (%v), a loop %q (%v)", read.bytes, complete, looped, ended)
		}
	})
}

// Restore has a socket listen again, whatever a process did to it that shared it.
func TestRestoredSocketsListen(t *testing.T) {
	nowhere := func(fd int) error {
		a := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
		if errno != 0 {
			return errno
		}
		return nil
	}
	for name, spoil := range map[string]func(fd int) error{
		"untouched":    func(int) error { return nil },
		"shut down":    func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) },
		"disconnected": nowhere,
		"connected": func(fd int) error {
			elsewhere, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				return err
			}
			t.Cleanup(func() { elsewhere.Close() })
			port := elsewhere.Addr().(*net.TCPAddr).Port
			err = errors.Join(nowhere(fd), unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
			if errors.Is(err, unix.EINPROGRESS) {
				err = nil
			}
			return err
		},
		"without linger": func(fd int) error { return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}) },
	} {
		t.Run(name, func(t *testing.T) {
			free, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := free.Addr().String() // the kernel forgets a port that it chose itself
			free.Close()
			tcp, err := Bind(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := tcp.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := control(raw, spoil); err != nil {
				t.Fatal(err)
			}
			if err := Restore(raw); err != nil {
				t.Fatal(err)
			}
			go func() {
				if conn, err := tcp.Accept(); err == nil {
					conn.Close()
				}
			}()
			defer tcp.Close()
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, "knock")
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the connection ends with %v, want a reset", err)
			}
		})
	}
}
