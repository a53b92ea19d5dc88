// Package sequence decides whether the knocks of one client complete a sequence.
//
// It is pure: no clock, no I/O, no goroutine. A [Set] says which steps of which
// sequences a request matches ([Set.Match]); a [Machine] takes one client's
// [State] and those steps to its next State ([Machine.Advance]). Whoever calls
// keeps the State, one for each client and sequence.
//
// # When a sequence completes
//
// Take one client's knocks since its last completion of the sequence. Strike
// out those that Ignore matches, those that the caller strikes out
// ([Match.Strike]: one-time codes that this client has itself used before), and,
// unless the sequence is Strict, those that match none of its steps. A prefetch
// never gets here. The sequence completes with a knock exactly when
// some run of latest knocks, ending with it, has the form
//
//	s1+ s2+ … sn
//
// (each step once or more, in order, nothing in between, the last step once),
// the first knock of each step comes no later than that step's Within after
// the first knock of the step before, and the whole run spans no more than
// Window.
package sequence

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
)

// MaxSteps is the greatest number of steps in a sequence.
const MaxSteps = 32

// A Spec describes one sequence.
type Spec struct {
	Name  string // unique among the sequences of a Set
	Steps []Step // 1 to MaxSteps
	// Window bounds the time from the first knock of a completing run to its
	// last, both included; 0 sets no bound.
	Window time.Duration
	// Strict makes a knock that matches no step start the client over;
	// otherwise such a knock counts as not made.
	Strict bool
	Ignore []string // decoded paths of requests that do not count as knocks
}

// A Step is a trigger at its place in a sequence.
type Step struct {
	Trigger Trigger
	// Within bounds the time from the first knock of the step before to the
	// first knock of this one, both included. It must be positive, except on
	// the first step, where it means nothing and must be 0.
	Within time.Duration
}

// A Trigger is what a step matches. Exactly one of Path, Hash, Regex and
// Template is set; every other field that is set must match as well.
type Trigger struct {
	Path     string // the decoded path, byte for byte
	Hash     string // SHA-256 of the decoded path, 64 lower-case hexadecimal digits
	Regex    string // RE2 expression, searched in the decoded path
	Template string // a path with one segment {totp} or {ticket}

	Method string            // case-sensitive; empty: any
	Host   string            // port, case and a trailing dot do not count; empty: any
	Query  map[string]string // parameters that occur exactly once, with this value
	Scheme string            // HTTP or HTTPS; empty: any
}

// The schemes of a request: in clear, or by TLS.
const (
	HTTP  = "http"
	HTTPS = "https"
)

// The variables that a template may hold, each as one whole segment.
const (
	TOTP   = "{totp}"
	Ticket = "{ticket}"
)

// Equal reports whether both specs describe the same sequence, so that a
// client's progress in the one is progress in the other.
func (s Spec) Equal(o Spec) bool {
	return s.Name == o.Name && s.Window == o.Window && s.Strict == o.Strict &&
		slices.Equal(s.Ignore, o.Ignore) &&
		slices.EqualFunc(s.Steps, o.Steps, func(a, b Step) bool {
			return a.Within == b.Within && a.Trigger.Equal(b.Trigger)
		})
}

// Equal reports whether both triggers are written alike.
func (t Trigger) Equal(o Trigger) bool {
	return t.Path == o.Path && t.Hash == o.Hash && t.Regex == o.Regex && t.Template == o.Template &&
		t.Method == o.Method && t.Host == o.Host && t.Scheme == o.Scheme && maps.Equal(t.Query, o.Query)
}

// Validate reports what is wrong with a trigger, as one error that says what
// would be right, or nil.
func (t Trigger) Validate() error {
	set := 0
	for _, s := range []string{t.Path, t.Hash, t.Regex, t.Template} {
		if s != "" {
			set++
		}
	}
	switch {
	case set != 1:
		return errors.New("a step needs exactly one of path, regex, template and hash")
	case t.Path != "":
		if err := validatePath(t.Path); err != nil {
			return err
		}
		if strings.ContainsAny(t.Path, "{}") {
			return errors.New("braces stand for a template, and the only ones are {totp} and {ticket}, each as a whole segment (use a regex to match a brace)")
		}
	case t.Template != "":
		if err := validatePath(t.Template); err != nil {
			return err
		}
		if _, _, err := splitTemplate(t.Template); err != nil {
			return err
		}
	case t.Hash != "":
		if sum, err := hex.DecodeString(t.Hash); err != nil || len(sum) != 32 || t.Hash != strings.ToLower(t.Hash) {
			return errors.New("not a SHA-256 in 64 lower-case hexadecimal digits")
		}
	case t.Regex != "":
		if _, err := regexp.Compile(t.Regex); err != nil {
			var what *syntax.Error
			errors.As(err, &what) // what.Expr is a secret
			return fmt.Errorf("not an RE2 expression: %s", what.Code)
		}
	}
	if strings.ContainsFunc(t.Method, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("a method is one word of printable ASCII, like GET")
	}
	if upper := strings.ToUpper(t.Method); upper != t.Method {
		return fmt.Errorf("the method %s never comes: methods are in upper case (%s)", t.Method, upper)
	}
	if strings.ContainsAny(t.Method, `"(),/:;<=>?@[\]{}`) { // RFC 9110, section 5.6.2
		return errors.New("a method is one word of letters, like GET")
	}
	switch {
	case strings.ContainsAny(t.Host, "/ "):
		return errors.New("a host is a bare name or address, like home.example.org")
	case strings.Contains(t.Host, "*"):
		return errors.New("a * in a host stands for itself alone (one host name, or none for any)")
	}
	if t.Scheme != "" && t.Scheme != HTTP && t.Scheme != HTTPS {
		return errors.New("a scheme is http or https")
	}
	return nil
}

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

// splitTemplate cuts a template around its variable.
func splitTemplate(t string) (prefix, suffix string, err error) {
	for _, v := range []string{TOTP, Ticket} {
		before, after, found := strings.Cut(t, v)
		if !found {
			continue
		}
		if !strings.HasSuffix(before, "/") || after != "" && !strings.HasPrefix(after, "/") ||
			strings.ContainsAny(before+after, "{}") {
			break
		}
		return before, after, nil
	}
	return "", "", errors.New("a template holds {totp} or {ticket} once, as a whole segment, like /k/{totp}")
}
