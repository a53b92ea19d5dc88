package sequence

// A Request is what Match looks at.
type Request struct {
	Method   string
	Host     string // with or without a port
	Path     string // percent-decoded once, not cleaned
	RawQuery string // as it stood in the request
	Scheme   string // HTTP or HTTPS; anything else matches neither
}

// A Match is what one knock means to the sequences of a Set. It is valid until
// the slice that was given to [Set.Match] is used again.
type Match struct {
	Hits []Hit
	// Candidates are the one-time steps that the request would match if its
	// code were valid. Accept makes a hit of a candidate.
	Candidates []Candidate
	path       string
	struck     bool
}

// A Hit is the steps of one sequence that a request matches.
type Hit struct {
	Machine    *Machine
	Steps      Steps       // not empty
	Credential *Credential // for the one-time steps among Steps; nil: there are none
}

// A Candidate is a one-time step whose template a request fits.
type Candidate struct {
	Machine  *Machine
	Step     int    // index
	Variable string // TOTP or Ticket
	Code     string // the segment in the variable's place; not empty
}

// Accept makes a hit of a candidate whose code is valid. Call it for at most one
// candidate of each sequence.
func (m *Match) Accept(c Candidate, credential *Credential) {
	m.hit(stepOf{c.Machine, c.Step}).Credential = credential
}

// Strike removes all matches, so that the knock counts in no sequence, as if the client had
// not sent it. It is for a client that repeats a one-time code that it has used itself.
func (m *Match) Strike() { m.Hits, m.Candidates, m.struck = m.Hits[:0], nil, true }

// Steps returns the steps of a sequence that the knock matches, and whether the
// knock counts in that sequence at all.
func (m Match) Steps(of *Machine) (steps Steps, counts bool) {
	hit, counts := m.Hit(of)
	return hit.Steps, counts
}

// Hit is like Steps, and returns the credential as well. For a knock that
// matches no step of the sequence it returns the zero Hit.
func (m Match) Hit(of *Machine) (hit Hit, counts bool) {
	for _, hit := range m.Hits {
		if hit.Machine == of {
			return hit, true
		}
	}
	return Hit{}, !m.struck && !of.ignores(m.path)
}

// hit adds a step to the hits, and returns the hit that has it.
func (m *Match) hit(s stepOf) *Hit {
	for i := range m.Hits {
		if m.Hits[i].Machine == s.machine {
			m.Hits[i].Steps |= 1 << s.step
			return &m.Hits[i]
		}
	}
	m.Hits = append(m.Hits, Hit{Machine: s.machine, Steps: 1 << s.step})
	return &m.Hits[len(m.Hits)-1]
}
