package sequence

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
)

// Regex matches the decoded paths in which its RE2 expression is found anywhere.
// Anchor it with ^ and $ to match whole paths.
type Regex string

// Validate implements [Trigger].
func (r Regex) Validate() error {
	if r == "" {
		return errors.New("a regex is not empty (like ^/a)")
	}
	if _, err := regexp.Compile(string(r)); err != nil {
		var what *syntax.Error
		errors.As(err, &what) // not what.Expr, which is a secret
		return fmt.Errorf("not an RE2 expression: %s", what.Code)
	}
	return nil
}

// Variable implements [Trigger].
func (Regex) Variable() string { return "" }

func (r Regex) newIndex() index { return &regexIndex{expression: regexp.MustCompile(string(r))} }

// regexIndex has one step: expressions can only be tried one after the other.
type regexIndex struct {
	decided
	expression *regexp.Regexp
	steps      []stepOf
}

func (x *regexIndex) add(s stepOf) bool {
	if len(x.steps) > 0 {
		return false
	}
	x.steps = []stepOf{s}
	return true
}

func (x *regexIndex) mayMatch(path string) []stepOf {
	if x.expression.MatchString(path) {
		return x.steps
	}
	return nil
}

func (*regexIndex) cost() int { return 3 }
