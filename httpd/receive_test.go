package httpd

import (
	"bytes"
	"io"
	"net"
	"testing"

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
