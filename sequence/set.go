package sequence

import (
	"cmp"
	"fmt"
	"slices"
)

// A Set is all sequences of a configuration, ready to match requests. It never
// changes, and goroutines may share it.
type Set struct {
	machines []*Machine
	indexes  []index // together they have all steps of all machines
}

// NewSet returns the set of the given sequences. It takes over the machines of
// sequences that are unchanged in old: a State stays valid as long as its
// Machine is in the set. Old may be nil.
func NewSet(specs []Spec, old *Set) (*Set, error) {
	s := new(Set)
	for _, spec := range specs {
		if s.Machine(spec.Name) != nil {
			return nil, fmt.Errorf("sequence %s: there are two of that name", spec.Name)
		}
		m := old.Machine(spec.Name)
		if m == nil || !m.spec.Equal(spec) {
			var err error
			if m, err = NewMachine(spec); err != nil {
				return nil, err
			}
		}
		s.machines = append(s.machines, m)
		for i := range spec.Steps {
			s.add(stepOf{m, i})
		}
	}
	slices.SortStableFunc(s.indexes, func(a, b index) int { return cmp.Compare(a.cost(), b.cost()) })
	return s, nil
}

// add adds a step to the index where its trigger belongs.
func (s *Set) add(step stepOf) {
	if slices.ContainsFunc(s.indexes, func(x index) bool { return x.add(step) }) {
		return
	}
	x := step.spec().Trigger.newIndex()
	x.add(step)
	s.indexes = append(s.indexes, x)
}

// Machines returns the machines in the order of their specs. The caller must not
// change the slice.
func (s *Set) Machines() []*Machine { return s.machines }

// Machine returns the machine of a sequence, or nil if the set has no such
// sequence or is nil.
func (s *Set) Machine(name string) *Machine {
	if s == nil {
		return nil
	}
	for _, m := range s.machines {
		if m.Name() == name {
			return m
		}
	}
	return nil
}

// Ignores reports whether all sequences ignore requests for path.
func (s *Set) Ignores(path string) bool {
	for _, m := range s.machines {
		if !m.ignores(path) {
			return false
		}
	}
	return true
}

// Concerns reports whether a request for path may match a step. Whether it does
// may depend on the rest of the request. If Concerns reports false, Match finds
// nothing. It does not allocate.
func (s *Set) Concerns(path string) bool {
	for _, x := range s.indexes {
		if len(x.mayMatch(path)) > 0 {
			return true
		}
	}
	return false
}

// Match returns which steps a request matches: at most one hit for each
// sequence, and none for sequences that ignore it. It appends the hits to
// buf[:0]. Its cost grows with the number of regular expressions in the set, but
// not with the number of paths.
func (s *Set) Match(r Request, buf []Hit) Match {
	m := Match{Hits: buf[:0], path: r.Path}
	for _, x := range s.indexes {
		for _, step := range x.mayMatch(r.Path) {
			code, ok := x.match(step, r.Path)
			if !ok || !step.spec().meet(&r) || step.machine.ignores(r.Path) {
				continue
			}
			if code == "" {
				m.hit(step)
			} else {
				m.Candidates = append(m.Candidates, Candidate{step.machine, step.step, step.spec().Trigger.Variable(), code})
			}
		}
	}
	return m
}
