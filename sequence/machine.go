package sequence

import (
	"math/bits"
	"slices"
	"time"
)

// Steps is a set of steps of one sequence: bit i stands for the step at index
// i of its Spec.
type Steps uint32

// A Machine advances clients through one sequence. It never changes, and
// goroutines may share it.
//
// Its methods are pure functions of a State and an instant. Instants are measured
// from an origin of the caller's choosing, on a clock that does not run backwards.
type Machine struct {
	spec    Spec
	oneTime Steps // the steps that ask for a one-time code
}

// NewMachine returns the machine of a sequence, or an error that says what is
// wrong with the spec.
func NewMachine(spec Spec) (*Machine, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	m := &Machine{spec: spec}
	for i, step := range spec.Steps {
		if step.Trigger.Variable() != "" {
			m.oneTime |= 1 << i
		}
	}
	return m, nil
}

// Name returns the name of the sequence.
func (m *Machine) Name() string { return m.spec.Name }

// Len returns the number of steps.
func (m *Machine) Len() int { return len(m.spec.Steps) }

// ignores reports whether a request for path does not count as a knock.
func (m *Machine) ignores(path string) bool { return slices.Contains(m.spec.Ignore, path) }

// Advance returns the state after a knock that matches the given steps, and
// whether the knock completes the sequence. After a completion the state is the
// zero State. Advance allocates only for a knock that leaves the client standing
// at more than one step.
func (m *Machine) Advance(s State, knock Steps, now time.Duration) (next State, complete bool) {
	next, complete, _ = m.AdvanceWith(s, knock, nil, now)
	return next, complete
}

// AdvanceWith is Advance for a knock with a one-time code: credential is for the
// one-time steps among those that the knock matches. With a completion it returns
// the latest credential of the run, or nil if the run had no one-time step.
func (m *Machine) AdvanceWith(s State, knock Steps, credential *Credential, now time.Duration) (next State, complete bool, by *Credential) {
	if knock == 0 {
		if m.spec.Strict {
			return State{}, false, nil
		}
		return s, false, nil
	}
	// Collect the runs that stand at one of the knock's steps, the furthest
	// first. All other runs end with the knock.
	tail := &next
	for rest := knock; rest != 0; {
		step := bits.Len32(uint32(rest))
		rest &^= 1 << (step - 1)
		latest, ok := m.reach(&s, step, now)
		if !ok {
			continue
		}
		if m.oneTime&(1<<(step-1)) != 0 {
			latest.credential = credential
		}
		if step == len(m.spec.Steps) {
			return State{}, true, latest.credential
		}
		if tail.step != 0 {
			tail.lower = new(State)
			tail = tail.lower
		}
		*tail = latest
	}
	return next, false, nil
}

// Reaches reports whether a knock at the step at index step would count, if a
// client in state s made it now: as the client's first step, as its next step,
// or as the same step once more. It also returns the latest credential of the
// run that the knock would go on with, or nil if that run has none.
func (m *Machine) Reaches(s State, step int, now time.Duration) (run *Credential, ok bool) {
	r, ok := m.reach(&s, step+1, now)
	return r.credential, ok
}

// reach returns the run that stands at step after a knock made now by a client in
// state s, without the run's lower. It reports false if there is none.
func (m *Machine) reach(s *State, step int, now time.Duration) (run State, ok bool) {
	if step == 1 {
		return State{step: 1, reached: now, began: now}, true // the first step always starts anew
	}
	// Prefer the run at the step before. It reaches this step now, and no run
	// that is here already can have begun later.
	if before := s.at(step - 1); before != nil && now <= m.deadline(before) {
		return State{step: step, reached: now, began: before.began, credential: before.credential}, true
	}
	if step == len(m.spec.Steps) {
		return State{}, false // the last step comes only once
	}
	if again := s.at(step); again != nil && now <= m.deadline(again) {
		return State{step: step, reached: again.reached, began: again.began, credential: again.credential}, true
	}
	return State{}, false
}

// deadline returns the last instant at which a knock takes a run to its next
// step.
func (m *Machine) deadline(run *State) time.Duration {
	d := run.reached + m.spec.Steps[run.step].Within
	if m.spec.Window > 0 {
		d = min(d, run.began+m.spec.Window)
	}
	return d
}

// Deadline returns the last instant at which a knock can still build on s. After
// it, s is equivalent to the zero State, whose deadline is 0.
func (m *Machine) Deadline(s State) time.Duration {
	var d time.Duration
	for run := &s; run != nil && run.step > 0; run = run.lower {
		d = max(d, m.deadline(run))
	}
	return d
}
