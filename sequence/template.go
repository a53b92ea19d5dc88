package sequence

import (
	"errors"
	"strings"
)

// The variables that a template may hold.
const (
	TOTP   = "{totp}"
	Ticket = "{ticket}"
)

// Template is a path with one variable, [TOTP] or [Ticket], as a whole segment.
// It matches the paths with any text in that segment, and the step is then
// passed only if that text is a valid one-time code. For example, /k/{totp}/x
// matches /k/123456/x, and 123456 is the code.
type Template string

// Validate implements [Trigger].
func (t Template) Validate() error {
	if err := validatePath(string(t)); err != nil {
		return err
	}
	before, after, ok := strings.Cut(string(t), t.Variable())
	if t.Variable() == "" || !ok || !strings.HasSuffix(before, "/") || after != "" && !strings.HasPrefix(after, "/") ||
		strings.ContainsAny(before+after, "{}") {
		return errors.New("a template holds {totp} or {ticket} once, as a whole segment, like /k/{totp}")
	}
	return nil
}

// Variable implements [Trigger].
func (t Template) Variable() string {
	for _, v := range []string{TOTP, Ticket} {
		if strings.Contains(string(t), v) {
			return v
		}
	}
	return ""
}

// prefixLen returns the length of what stands before the variable.
func (t Template) prefixLen() int { return strings.IndexByte(string(t), '{') }

func (t Template) newIndex() index {
	return &templateIndex{prefixLen: t.prefixLen(), prefixes: map[string][]stepOf{}}
}

// templateIndex has the templates of a set whose prefixes are equally long.
type templateIndex struct {
	prefixLen int
	prefixes  map[string][]stepOf
}

func (x *templateIndex) add(s stepOf) bool {
	t, ok := s.spec().Trigger.(Template)
	if !ok || t.prefixLen() != x.prefixLen {
		return false
	}
	prefix := string(t)[:x.prefixLen]
	x.prefixes[prefix] = append(x.prefixes[prefix], s)
	return true
}

// mayMatch goes by the prefix alone, which ends in a slash.
func (x *templateIndex) mayMatch(path string) []stepOf {
	if x.prefixLen < len(path) && path[x.prefixLen-1] == '/' {
		return x.prefixes[path[:x.prefixLen]]
	}
	return nil
}

func (x *templateIndex) match(s stepOf, path string) (code string, ok bool) {
	t := string(s.spec().Trigger.(Template))
	suffix := t[strings.IndexByte(t, '}')+1:]
	code, found := strings.CutSuffix(path[x.prefixLen:], suffix)
	return code, found && code != "" && !strings.Contains(code, "/")
}

func (*templateIndex) cost() int { return 1 }
