package sequence

import (
	"errors"
	"strings"
)

// Exact matches one decoded path, byte for byte. There is no cleaning: /a, //a
// and /a/ are three different paths.
type Exact string

// Validate implements [Trigger].
func (e Exact) Validate() error {
	if err := validatePath(string(e)); err != nil {
		return err
	}
	if strings.ContainsAny(string(e), "{}") {
		return errors.New("braces stand for a template, and the only ones are {totp} and {ticket}, each as a whole segment (use a regex to match a brace)")
	}
	return nil
}

// Variable implements [Trigger].
func (Exact) Variable() string { return "" }

func (Exact) newIndex() index { return &exactIndex{paths: map[string][]stepOf{}} }

// exactIndex has all exact steps of a set.
type exactIndex struct {
	decided
	paths map[string][]stepOf
}

func (x *exactIndex) add(s stepOf) bool {
	e, ok := s.spec().Trigger.(Exact)
	if ok {
		x.paths[string(e)] = append(x.paths[string(e)], s)
	}
	return ok
}

func (x *exactIndex) mayMatch(path string) []stepOf { return x.paths[path] }

func (*exactIndex) cost() int { return 0 }
