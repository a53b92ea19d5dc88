package command

import (
	"bufio"
	"bytes"
	"io"
	"time"
)

// Bounds of what a command's output puts into the log.
const (
	MaxLines = 200     // of one run
	maxLine  = 1 << 10 // bytes; what a line has beyond them is dropped
)

// pause is between two reads of output that is not logged, so that a flood of
// it waits in its pipe and takes little of the processor.
const pause = time.Millisecond

// readLines hands on what out brings, line by line, until its end or an error. It
// returns how many lines were not handed on, or not whole.
func readLines(to func(line string), out io.Reader) (lost int) {
	r := bufio.NewReaderSize(out, maxLine)
	for range MaxLines {
		line, more, err := r.ReadLine()
		if err != nil {
			return lost
		}
		to(string(line))
		if !more {
			continue
		}
		lost++
		for more && err == nil {
			_, more, err = r.ReadLine()
		}
	}
	partial := false // a line has begun that has not ended
	for buf := make([]byte, 64<<10); ; {
		time.Sleep(pause)
		n, err := r.Read(buf)
		lost += bytes.Count(buf[:n], []byte{'\n'})
		if n > 0 {
			partial = buf[n-1] != '\n'
		}
		if err != nil {
			if partial {
				lost++
			}
			return lost
		}
	}
}
