package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

const (
	headerLen     = 24
	perMarker     = 200     // descriptors that go with one byte; the kernel takes 253 (SCM_MAX_FD)
	maxFiles      = 1 << 15 // descriptors of a frame
	readAtOnce    = 1 << 16 // of a long payload: memory grows only as it comes
	maxElements   = 1 << 17 // of a list or a map
	maxConcurrent = 64      // requests under way in one direction
)

// form says what a frame is.
type form uint8

const (
	request form = 1 + iota
	notice       // has no answer
	answer
	failed // an answer that is an error
	cancel // of a request: nobody waits for its answer any more
)

// A header stands before each payload.
type header struct {
	length  uint32
	form    form
	kind    kind
	files   uint16
	id      uint64
	timeout time.Duration // 0: none
}

func (h header) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, h.length)
	b = append(b, byte(h.form), byte(h.kind))
	b = binary.BigEndian.AppendUint16(b, h.files)
	b = binary.BigEndian.AppendUint64(b, h.id)
	return binary.BigEndian.AppendUint64(b, uint64(h.timeout))
}

// markers returns how many bytes carry the descriptors of a frame.
func (h header) markers() int { return (int(h.files) + perMarker - 1) / perMarker }

// parseHeader returns an error for what no end of this version sends.
func parseHeader(b []byte) (h header, err error) {
	timeout := binary.BigEndian.Uint64(b[16:])
	h = header{
		length: binary.BigEndian.Uint32(b), form: form(b[4]), kind: kind(b[5]), files: binary.BigEndian.Uint16(b[6:]),
		id: binary.BigEndian.Uint64(b[8:]), timeout: time.Duration(timeout),
	}
	m, known := methods[h.kind]
	limit := 0
	switch {
	case !known:
		return h, fmt.Errorf("a frame of the unknown kind %d", h.kind)
	case h.form < request || h.form > cancel:
		return h, fmt.Errorf("a frame of the unknown form %d", h.form)
	case (h.form == notice) != m.notice:
		return h, fmt.Errorf("%s has another form", m.name)
	case (h.form == notice) != (h.id == 0):
		return h, fmt.Errorf("%s has the id %d", m.name, h.id)
	case h.form != request && timeout != 0 || timeout > math.MaxInt64:
		return h, fmt.Errorf("%s has a time limit of %d", m.name, timeout)
	case h.files > 0 && !(m.files && h.form == request) || h.files > maxFiles:
		return h, fmt.Errorf("%s with %d descriptors", m.name, h.files)
	case h.form == request || h.form == notice:
		limit = m.argument
	case h.form == answer:
		limit = m.result
	case h.form == failed:
		limit = maxText + 64
	}
	if int64(h.length) > int64(limit) {
		return h, fmt.Errorf("%s of %d bytes (%d at most)", m.name, h.length, limit)
	}
	return h, nil
}

// A frameError is a frame that is wrong by itself.
type frameError struct{ error }

func (e *frameError) Unwrap() error { return e.error }

// readFrame reads a frame. Its payload is valid until the next call, which may use buf
// again.
func readFrame(r io.Reader, buf *[]byte) (header, []byte, error) {
	var head [headerLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return header{}, nil, err
	}
	h, err := parseHeader(head[:])
	if err != nil {
		return h, nil, &frameError{err}
	}
	if n := h.markers(); n > 0 {
		if _, err := io.CopyN(io.Discard, r, int64(n)); err != nil {
			return h, nil, unexpected(err)
		}
	}
	n := int(h.length)
	if n <= readAtOnce {
		if cap(*buf) < n {
			*buf = make([]byte, readAtOnce)
		}
		payload := (*buf)[:n]
		_, err := io.ReadFull(r, payload)
		return h, payload, unexpected(err)
	}
	var long bytes.Buffer
	_, err = io.CopyN(&long, r, int64(n))
	return h, long.Bytes(), unexpected(err)
}

// unexpected makes the end of the stream inside a frame an error of its own.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
