package eventloop

import "bytes"

// HeadEnd returns the length of the request head that data begins with, its empty
// line included, or -1 if the head is incomplete. A bare LF ends a line as well
// (RFC 9112, section 2.2).
func HeadEnd(data []byte) int {
	for i := 0; ; {
		lf := bytes.IndexByte(data[i:], '\n')
		if lf < 0 {
			return -1
		}
		if line := data[i : i+lf]; len(line) == 0 || len(line) == 1 && line[0] == '\r' {
			return i + lf + 1
		}
		i += lf + 1
	}
}

// A Scanner looks for the end of a head that comes in pieces. It looks at each line
// once it is complete, and not again.
type Scanner struct {
	Max  int // bytes of a head; a longer one is complete too, and malformed
	line int // where the incomplete line begins
}

// End looks at all that has come of a head so far. It returns the head's length
// and whether it is complete.
func (s *Scanner) End(head []byte) (end int, complete bool) {
	if end := HeadEnd(head[s.line:]); end >= 0 {
		return s.line + end, true
	}
	s.line = bytes.LastIndexByte(head, '\n') + 1
	return len(head), len(head) > s.Max
}
