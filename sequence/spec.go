package sequence

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxSteps is the greatest number of steps in a sequence.
const MaxSteps = 32

// A Spec describes one sequence.
type Spec struct {
	Name  string // unique among the sequences of a Set
	Steps []Step // 1 to MaxSteps
	// Window limits the time from the first knock of a completing run to its
	// last, inclusive; 0 means no limit.
	Window time.Duration
	// Strict makes a knock that matches no step start the client over.
	// Otherwise such a knock is struck out.
	Strict bool
	Ignore []string // decoded paths of requests that do not count as knocks
}

// A Step is a trigger at its place in a sequence.
type Step struct {
	Trigger    Trigger // which paths match
	Conditions         // what else the request must have
	// Within limits the time from the first knock of the step before to the
	// first knock of this one, inclusive. It must be positive, except on the
	// first step, where it has no meaning and must be 0.
	Within time.Duration
}

// Equal reports whether both specs describe the same sequence, so that a
// client's progress in one is progress in the other.
func (s Spec) Equal(o Spec) bool {
	return s.Name == o.Name && s.Window == o.Window && s.Strict == o.Strict &&
		slices.Equal(s.Ignore, o.Ignore) && slices.EqualFunc(s.Steps, o.Steps, Step.equal)
}

func (s Step) equal(o Step) bool { return s.Within == o.Within && s.SameRequest(o) }

// SameRequest reports whether both steps ask for the same request, written
// alike. Within does not count.
func (s Step) SameRequest(o Step) bool {
	return s.Trigger == o.Trigger && s.Conditions.equal(o.Conditions)
}

// Validate returns what is wrong with the step's trigger or conditions, as one
// error that says what would be right, or nil. It does not look at Within, which
// depends on the place of the step.
func (s Step) Validate() error {
	if s.Trigger == nil {
		return errNoTrigger
	}
	if err := s.Trigger.Validate(); err != nil {
		return err
	}
	return s.Conditions.validate()
}

var errNoTrigger = errors.New("a step needs exactly one trigger")

// validate returns the first thing that is wrong with the spec.
func (s Spec) validate() error {
	if n := len(s.Steps); n < 1 || n > MaxSteps {
		return fmt.Errorf("sequence %s: %d steps (1 to %d)", s.Name, n, MaxSteps)
	}
	if s.Window < 0 {
		return fmt.Errorf("sequence %s: window %v is negative", s.Name, s.Window)
	}
	for i, step := range s.Steps {
		if err := step.Validate(); err != nil {
			return fmt.Errorf("sequence %s: step %d: %w", s.Name, i+1, err)
		}
		if first := i == 0; first != (step.Within == 0) || step.Within < 0 {
			return fmt.Errorf("sequence %s: step %d: within %v (positive, and 0 on the first step)", s.Name, i+1, step.Within)
		}
	}
	return nil
}
