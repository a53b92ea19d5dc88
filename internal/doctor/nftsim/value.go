package nftsim

import (
	"bytes"
	"encoding/binary"
)

// answer is of a condition.
type answer int

const (
	no answer = iota
	yes
	maybe
)

// source says what a byte was copied from.
type source uint8

const (
	elsewhere source = iota
	portHigh         // of the port that the packet came for
	portLow
	portMade // worked out from that port
	address  // byte 0 of the destination; the next ones follow
)

// cell is one byte of a register, of which some bits may be known.
type cell struct {
	value byte // 0 where a bit is not known
	bits  byte // that are known
	from  source
}

func known(b byte) cell { return cell{value: b, bits: 0xff} }

func knownBytes(data []byte) []cell {
	cells := make([]cell, len(data))
	for i, b := range data {
		cells[i] = known(b)
	}
	return cells
}

func number32(n uint32) []cell { return knownBytes(binary.NativeEndian.AppendUint32(nil, n)) }

// bytesOf returns the bytes, if all are known.
func bytesOf(cells []cell) ([]byte, bool) {
	data := make([]byte, len(cells))
	for i, c := range cells {
		if c.bits != 0xff {
			return nil, false
		}
		data[i] = c.value
	}
	return data, true
}

// numberOf returns a number of the host's byte order, and which bits are known.
func numberOf(cells []cell) (value, bits uint32) {
	var v, b [4]byte
	for i := 0; i < 4 && i < len(cells); i++ {
		v[i], b[i] = cells[i].value, cells[i].bits
	}
	return binary.NativeEndian.Uint32(v[:]), binary.NativeEndian.Uint32(b[:])
}

// index returns the index of a register's first byte. It returns false if there is no such
// register.
func index(register uint32) (int, bool) {
	const reg1, reg4, reg32, last = 1, 4, 8, 23 // NFT_REG_1, NFT_REG_4, NFT_REG32_00, NFT_REG32_15
	switch {
	case register >= reg1 && register <= reg4:
		return int(register-reg1) * 16, true
	case register >= reg32 && register <= last:
		return int(register-reg32) * 4, true
	}
	return 0, false
}

// store puts bytes into a register, and zeros behind them up to a word.
func (s *walk) store(register uint32, cells []cell) {
	at, ok := index(register)
	if !ok {
		return
	}
	n := copy(s.regs[at:], cells)
	for i := at + n; i%4 != 0 && i < len(s.regs); i++ {
		s.regs[i] = known(0)
	}
}

// forget makes a register unknown.
func (s *walk) forget(register uint32, length int) {
	s.store(register, make([]cell, max(0, min(length, len(s.regs)))))
}

// load returns what is in a register.
func (s *walk) load(register uint32, length int) []cell {
	at, ok := index(register)
	if !ok || length < 0 || length > len(s.regs) {
		return make([]cell, max(0, min(length, len(s.regs))))
	}
	cells := make([]cell, length)
	copy(cells, s.regs[at:])
	return cells
}

// compare returns whether the least and the greatest value that some bytes may
// have are below, at or above others (-1, 0, 1).
func compare(cells []cell, data []byte) (least, greatest int) {
	low, high := make([]byte, len(cells)), make([]byte, len(cells))
	for i, c := range cells {
		low[i], high[i] = c.value, c.value|^c.bits
	}
	return bytes.Compare(low, data), bytes.Compare(high, data)
}

// equal answers whether some bytes are others.
func equal(cells []cell, data []byte) answer {
	if len(cells) != len(data) {
		return no
	}
	a := yes
	for i, c := range cells {
		if c.value != data[i]&c.bits {
			return no
		}
		if c.bits != 0xff {
			a = maybe
		}
	}
	return a
}

// within answers whether some bytes, as a number, lie in a range.
func within(cells []cell, from, to []byte) answer {
	if bytes.Equal(from, to) {
		return equal(cells, from)
	}
	low1, high1 := compare(cells, from)
	low2, high2 := compare(cells, to)
	switch {
	case high1 < 0 || low2 > 0:
		return no
	case low1 >= 0 && high2 <= 0:
		return yes
	}
	return maybe
}

// ports notes what a comparison with a range tells of the port: outcomes are
// the same on each side of it.
func (w *walker) ports(cells []cell, from, to []byte) {
	for i := 0; i < len(cells); i++ {
		switch cells[i].from {
		case portHigh:
			if i+1 < len(cells) && cells[i+1].from == portLow && i+1 < len(from) && i+1 < len(to) {
				low, high := binary.BigEndian.Uint16(from[i:]), binary.BigEndian.Uint16(to[i:])
				if i > 0 && low != high { // a range over more than the port
					w.cut(low, low)
					w.cut(high, high)
				} else {
					w.cut(low, high)
				}
				i++
				continue
			}
			w.pin()
		case portLow, portMade:
			w.pin()
		}
	}
}

// destination notes the addresses that a comparison asks for.
func (w *walker) destination(cells []cell, data []byte) {
	length := 16
	if w.family == IPv4 {
		length = 4
	}
	for i, c := range cells {
		if c.from == address && i+length <= len(cells) && i+length <= len(data) {
			w.asked(data[i : i+length])
		}
	}
}

// taint returns what a byte that was worked out from others comes from.
func taint(cells ...cell) source {
	for _, c := range cells {
		if c.from == portHigh || c.from == portLow || c.from == portMade {
			return portMade
		}
	}
	return elsewhere
}
