package sequence

import "time"

// A State is how far one client is in one sequence. The zero State is that of
// a client that has not begun. States are values: Advance returns a new State
// and does not change the old one.
//
// # Several runs at once
//
// One knock can match several steps, and the same knocks can be read as several
// runs. In a sequence /a /a /b, a second /a is the first step again, and also
// the second step. So a client can stand at several steps at once, and a State
// is a list of runs, the furthest first.
//
// One run per step is enough: the one that reached the step last with the latest
// start. Any other run at that step could complete only where this one does too,
// because every limit is compared with one of these two times, and the later
// time is never worse. If one run reached the step last and another began last,
// a third run has both: it follows the knocks of the one that began later until
// both first stand at the same step, and from there the knocks of the other.
type State struct {
	step       int           // steps matched, at least 1; 0 in the zero State
	reached    time.Duration // when the run first stood at this step
	began      time.Duration // when the run began
	credential *Credential   // of the run's latest one-time step; nil: it has had none
	lower      *State        // the run at the next lower step; never changed
}

// Step returns how many steps have been matched, 0 to the sequence's length
// less one.
func (s State) Step() int { return s.step }

// at returns the run at a step, or nil.
func (s *State) at(step int) *State {
	for ; s != nil && s.step >= step; s = s.lower {
		if s.step == step {
			return s
		}
	}
	return nil
}
