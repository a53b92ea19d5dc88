package sequence

import (
	"errors"
	"regexp"
	"strings"
)

// A Trigger says which paths a step matches. There are four kinds: [Exact],
// [Hash], [Regex] and [Template], each in the file of its name. Triggers are
// plain values: two of them are equal (==) if they are written alike.
//
// To add a kind, add a file with its type and its index.
type Trigger interface {
	// Validate returns what is wrong with the trigger, as one error that says
	// what would be right, or nil. The error does not quote the trigger,
	// because paths are secrets.
	Validate() error
	// Variable returns TOTP or Ticket if a segment of the path is a one-time
	// code, and "" otherwise.
	Variable() string
	// newIndex returns an empty index for triggers like this one, which must
	// be valid.
	newIndex() index
}

// An index finds the steps of one kind that a path matches, so that a Set need
// not try its steps one by one.
type index interface {
	// add adds a step, or reports false if the step's trigger belongs in
	// another index.
	add(s stepOf) bool
	// mayMatch returns the steps that path may match. It must not miss a step
	// that does match, and it must not allocate, because it is asked about
	// every request of every stranger.
	mayMatch(path string) []stepOf
	// match reports whether path does match s, which mayMatch has returned. If
	// the trigger has a variable, code is the segment in its place, which is
	// not empty; otherwise code is empty.
	match(s stepOf, path string) (code string, ok bool)
	// cost orders the indexes of a Set: those with the lowest are asked first.
	cost() int
}

// stepOf is a step of a machine.
type stepOf struct {
	machine *Machine
	step    int // index
}

func (s stepOf) spec() *Step { return &s.machine.spec.Steps[s.step] }

// decided is embedded by an index whose mayMatch leaves nothing open.
type decided struct{}

func (decided) match(stepOf, string) (code string, ok bool) { return "", true }

// validatePath returns what is wrong with a path as Exact and Template have it.
func validatePath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return errors.New("a path starts with /")
	case percentEncoded.MatchString(p):
		return errors.New("write the path decoded, without %XX")
	case strings.ContainsAny(p, "?#"):
		return errors.New("a path holds no ? and no # (match parameters with query)")
	}
	return nil
}

var percentEncoded = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
