//go:build linux

// Package confine starts a part of the program in a process of its own that has as
// little power as its work needs.
//
// The keeper calls [Start]. What a process can be without from its first instruction
// on is taken from it before the program is executed: its user, supplementary groups,
// capabilities, the way to gain any, the environment, descriptors. The process itself
// calls [Self] before it hears of a stranger: that takes what the start of a program
// needs, with Landlock, seccomp and resource limits. Both report what has worked and
// warn of what has not. A host that lacks a means still gets the others.
package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A Report says what a process has given up. The process that was started writes its
// own to the keeper, before anything else.
type Report struct {
	Confined []string `json:"confined"` // in the order in which it was taken
	Warnings []string `json:"warnings"` // what could not be taken, and why
}

// The kinds of confinement, as the status names them.
const (
	User         = "user" // a user of its own
	Capabilities = "capabilities"
	Others       = "other_capabilities" // than those that it is there for
	NoNewPrivs   = "no_new_privs"
	Limits       = "rlimits"
	Landlock     = "landlock"
	Seccomp      = "seccomp"
)

func (r *Report) took(what string) { r.Confined = append(r.Confined, what) }

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// Info is what the status says of a process.
type Info struct {
	Name     string
	PID      int
	User     string
	Confined []string // what it has given up
	Warnings []string // what it could not
}

// maxLine bounds what two processes tell each other at the start, in bytes.
const maxLine = 8 << 10

// WriteLine writes a value as one line.
func WriteLine(w io.Writer, value any) error {
	line, err := json.Marshal(value)
	if err == nil {
		_, err = w.Write(append(line, '\n'))
	}
	return err
}

// ReadLine reads a value that WriteLine has written, and not one byte behind it.
func ReadLine(from io.Reader, value any) error {
	var line []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(from, one); err != nil {
			return err
		}
		if one[0] == '\n' {
			return json.Unmarshal(line, value)
		}
		if line = append(line, one[0]); len(line) > maxLine {
			return errors.New("a line that does not end")
		}
	}
}
