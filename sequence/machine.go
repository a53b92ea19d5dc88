package sequence

import (
	"math/bits"
	"slices"
	"time"
)

// Steps is a set of steps of one sequence: bit i stands for the step at index
// i of its Spec.
type Steps uint32

// A Machine advances clients through one sequence. It never changes and may be
// shared between goroutines.
type Machine struct {
	spec    Spec
	oneTime Steps // those that ask for a one-time code
}

// NewMachine returns the machine of a sequence, or an error that names what is
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

// A Credential is what a one-time code has bought: the run that goes on with the code
// carries it to its completion. Machines do not look into it.
type Credential struct {
	User    string    // whose code it was
	KeyID   [8]byte   // tells the user's secret from others, and not what it is
	Code    string    // as it stood in the path
	Until   time.Time // after that the code would be no good even if nobody had used it
	Use     uint64    // the number under which the code was burnt
	Request any       // what a ticket of the run asks for; nil: nothing of its own
}

// A State is how far one client is in one sequence. The zero State is that of
// a client that has not begun. States are values: Advance returns a new one
// and leaves the old as it was.
//
// A knock may match several steps, so a client may stand at several steps at
// once. For each of them one hypothesis is enough, the one that reached the
// step last and began last: where two runs lead to the same step, a third goes
// along with the one that began later up to the knock where they first stand
// at the same step, and on with the one that reached the end later; since it
// is no worse than either in every later comparison, no other need be kept.
type State struct {
	step  int           // steps matched, at least 1; 0 in the zero State
	first time.Duration // when the latest run to stand here first did
	start time.Duration // when the latest run to stand here began
	pass  *Credential   // of the latest one-time step of that run; nil: it has had none
	lower *State        // the hypothesis at the next lower step; never written through
}

// Step returns how many steps have been matched, 0 to the sequence's length
// less one.
func (s State) Step() int { return s.step }

// at returns the hypothesis at a step, or nil.
func (s *State) at(step int) *State {
	for ; s != nil && s.step >= step; s = s.lower {
		if s.step == step {
			return s
		}
	}
	return nil
}

// Advance returns the state after a knock that matches the given steps, and
// whether the knock completes the sequence; after a completion the client has
// not begun. Instants are measured from an origin of the caller's choosing, on
// a clock that does not run backwards. It allocates only for a knock that
// leaves the client standing at more than one step.
func (m *Machine) Advance(s State, knock Steps, now time.Duration) (next State, complete bool) {
	next, complete, _ = m.AdvanceWith(s, knock, nil, now)
	return next, complete
}

// AdvanceWith is Advance for a knock with a one-time code: pass is what the
// code has bought for the one-time steps among those that the knock matches.
// With a completion it returns the latest pass of the run, or nil if none of
// the run's steps was a one-time step.
func (m *Machine) AdvanceWith(s State, knock Steps, pass *Credential, now time.Duration) (next State, complete bool, by *Credential) {
	if knock == 0 {
		if m.spec.Strict {
			return State{}, false, nil
		}
		return s, false, nil
	}
	tail := &next
	for rest := knock; rest != 0; {
		step := bits.Len32(uint32(rest))
		rest &^= 1 << (step - 1)
		h, ok := m.reach(&s, step, now)
		if !ok {
			continue
		}
		if m.oneTime&(1<<(step-1)) != 0 {
			h.pass = pass
		}
		if step == len(m.spec.Steps) {
			return State{}, true, h.pass
		}
		if tail.step != 0 {
			tail.lower = new(State)
			tail = tail.lower
		}
		*tail = h
	}
	return next, false, nil
}

// Reaches reports whether a knock made now would take a client in state s to
// the step at index step, as its next one, its first, or the one where it
// stands once more, and returns the latest pass of the run that it would go on
// with; nil: that has none.
func (m *Machine) Reaches(s State, step int, now time.Duration) (run *Credential, ok bool) {
	h, ok := m.reach(&s, step+1, now)
	return h.pass, ok
}

// reach returns the hypothesis of a client in state s that stands at step with
// a knock made now. A run that comes from the step before reached this one
// last, and no run that was here already can have begun later.
func (m *Machine) reach(s *State, step int, now time.Duration) (h State, ok bool) {
	if step == 1 {
		return State{step: 1, first: now, start: now}, true
	}
	if before := s.at(step - 1); before != nil && now <= m.deadline(*before) {
		return State{step: step, first: now, start: before.start, pass: before.pass}, true
	}
	if step == len(m.spec.Steps) {
		return State{}, false // the last step comes once
	}
	if again := s.at(step); again != nil && now <= m.deadline(*again) {
		return State{step: step, first: again.first, start: again.start, pass: again.pass}, true
	}
	return State{}, false
}

// deadline returns the last instant at which a knock takes a hypothesis to its
// next step.
func (m *Machine) deadline(h State) time.Duration {
	d := h.first + m.spec.Steps[h.step].Within
	if m.spec.Window > 0 {
		d = min(d, h.start+m.spec.Window)
	}
	return d
}

// Deadline returns the last instant at which a knock can still build on s. A
// state after its deadline is as good as the zero State, whose deadline is 0.
func (m *Machine) Deadline(s State) time.Duration {
	var d time.Duration
	for h := &s; h != nil && h.step > 0; h = h.lower {
		d = max(d, m.deadline(*h))
	}
	return d
}
