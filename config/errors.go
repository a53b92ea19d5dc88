package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a file.
type Error struct {
	File      string
	Line, Col int    // from 1; 0: not known
	Key       string // path of the key, like doors[0].ttl; empty: the file as a whole
	Msg       string // what is wrong (what would be right)
}

func (e Error) Error() string {
	var s strings.Builder
	s.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&s, ":%d:%d", e.Line, e.Col)
	}
	if e.Key != "" {
		s.WriteString(": " + e.Key)
	}
	s.WriteString(": " + e.Msg)
	return s.String()
}

// Errors is all that is wrong with a file, in the order of the file.
type Errors []Error

func (e Errors) Error() string { return strings.Join(e.Lines(), "\n") }

// Lines returns the errors, one per line.
func (e Errors) Lines() []string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return lines
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
}
