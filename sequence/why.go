package sequence

import (
	"math/bits"
	"time"
)

// A Reason says what a knock did to a client's progress in one sequence.
type Reason uint8

// The reasons, from the one that says least to the one that says most.
const (
	NoStep      Reason = iota // it matches no step, and the client was at none
	PassedOver                // it matches no step, and as the sequence is not strict the client stays where it was
	StartedOver               // it matches no step, and as the sequence is strict the client starts over
	WrongOrder                // it matches a step, but another one was awaited
	LateWindow                // it matches the awaited step, but comes after the window of the sequence
	LateWithin                // it matches the awaited step, but comes too late after the step before
	Repeats                   // it matches the step where the client was; the client stays there
	Reaches                   // it takes the client to the step
	Completes                 // it matches the last step, and completes the sequence
)

// A Why says what a knock did to a client's progress in one sequence, and why.
type Why struct {
	Reason  Reason
	Step    int           // that the knock matches, from 1; the furthest that explains the reason; 0: none
	Awaited int           // the step that came next before the knock, from 1
	Late    time.Duration // by how much too late; 0 unless the reason is LateWindow or LateWithin
}

// Why explains what a knock that matches the given steps does to a client in a state:
// what Advance does with the same arguments. The state may have expired, which is how
// a knock that comes too late is told from one in the wrong order. Why is not on the
// way of a knock; call it to tell somebody.
func (m *Machine) Why(before State, knock Steps, now time.Duration) Why {
	why := Why{Awaited: 1}
	if m.Deadline(before) >= now {
		why.Awaited = before.step + 1
	}
	next, complete := m.Advance(before, knock, now)
	switch {
	case complete:
		why.Reason, why.Step = Completes, len(m.spec.Steps)
	case knock == 0 && why.Awaited == 1:
		why.Reason = NoStep
	case knock == 0 && m.spec.Strict:
		why.Reason = StartedOver
	case knock == 0:
		why.Reason = PassedOver
	case next.step > 0:
		why.Reason, why.Step = Reaches, next.step
		if next.step > 1 && next.reached < now {
			why.Reason = Repeats
		}
	default:
		why.Reason, why.Step, why.Late = m.unreached(before, knock, now)
	}
	return why
}

// unreached explains a knock that matches steps and takes the client to none of them.
func (m *Machine) unreached(before State, knock Steps, now time.Duration) (r Reason, step int, late time.Duration) {
	for rest := knock; rest != 0; rest &^= 1 << (step - 1) {
		step = bits.Len32(uint32(rest))
		run := before.at(step - 1)
		if run == nil {
			continue
		}
		late = now - m.deadline(run)
		if m.spec.Window > 0 && run.began+m.spec.Window < run.reached+m.spec.Steps[step-1].Within {
			return LateWindow, step, late
		}
		return LateWithin, step, late
	}
	return WrongOrder, bits.Len32(uint32(knock)), 0
}

// Within returns the time limit of a step, from 1; 0 for the first.
func (m *Machine) Within(step int) time.Duration { return m.spec.Steps[step-1].Within }

// Window returns the time limit of the whole sequence; 0: there is none.
func (m *Machine) Window() time.Duration { return m.spec.Window }

// Conditions returns what a step, from 1, asks of a request besides its path.
func (m *Machine) Conditions(step int) Conditions { return m.spec.Steps[step-1].Conditions }

// A Condition is one of a step's [Conditions].
type Condition uint8

// The conditions.
const (
	OfMethod Condition = iota + 1
	OfScheme
	OfHost
	OfQuery
)

// An Unmet is a step whose path a request matches, and the first condition of the step
// that the request does not meet.
type Unmet struct {
	Machine   *Machine
	Step      int // from 1
	Condition Condition
}

// Unmet returns the steps whose paths a request matches while it does not meet their
// conditions. Like Why it is not on the way of a knock.
func (s *Set) Unmet(r Request) (all []Unmet) {
	for _, x := range s.indexes {
		for _, step := range x.mayMatch(r.Path) {
			if _, ok := x.match(step, r.Path); !ok || step.machine.ignores(r.Path) {
				continue
			}
			if c := step.spec().unmet(&r); c != 0 {
				all = append(all, Unmet{step.machine, step.step + 1, c})
			}
		}
	}
	return all
}

// unmet returns the first condition that a request does not meet; 0: it meets all.
func (c *Conditions) unmet(r *Request) Condition {
	for condition, alone := range []Conditions{{Method: c.Method}, {Scheme: c.Scheme}, {Host: c.Host}, {Query: c.Query}} {
		if !alone.meet(r) {
			return Condition(condition + 1)
		}
	}
	return 0
}
