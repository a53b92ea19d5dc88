package sequence

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// A Request is what a trigger looks at.
type Request struct {
	Method   string
	Host     string // with or without a port
	Path     string // percent-decoded once, not cleaned
	RawQuery string // as it stood in the request
}

// A Set is all sequences of a configuration, ready to match requests. It never
// changes and may be shared between goroutines.
type Set struct {
	machines []*Machine
	paths    map[string][]place
	hashes   map[[sha256.Size]byte][]place
	patterns []pattern
}

// A place is a step of a machine.
type place struct {
	machine *Machine
	step    int // index
}

type pattern struct {
	place
	regex *regexp.Regexp
}

// NewSet returns the set of the given sequences. The machine of a sequence
// that stands unchanged in old is taken over, so that a State goes on counting
// exactly as long as its Machine is in the set. Old may be nil.
func NewSet(specs []Spec, old *Set) (*Set, error) {
	s := &Set{paths: map[string][]place{}, hashes: map[[sha256.Size]byte][]place{}}
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
			s.add(place{m, i})
		}
	}
	return s, nil
}

func (s *Set) add(p place) {
	switch t := p.trigger(); {
	case t.Path != "":
		s.paths[t.Path] = append(s.paths[t.Path], p)
	case t.Hash != "":
		var sum [sha256.Size]byte
		hex.Decode(sum[:], []byte(t.Hash)) // validated by NewMachine
		s.hashes[sum] = append(s.hashes[sum], p)
	case t.Regex != "":
		s.patterns = append(s.patterns, pattern{p, regexp.MustCompile(t.Regex)})
	}
}

// Machines returns the machines in the order of their specs; it is not to be
// written to.
func (s *Set) Machines() []*Machine { return s.machines }

// Machine returns the machine of a sequence, or nil if there is none in the
// set or no set.
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

// Ignores reports whether a request for path counts as a knock in no sequence.
func (s *Set) Ignores(path string) bool {
	for _, m := range s.machines {
		if !m.ignores(path) {
			return false
		}
	}
	return true
}

// A Knock is what one request means to the sequences of a Set. It stays valid
// until the slice that was given to Match is used again.
type Knock struct {
	Hits []Hit
	path string
}

// A Hit is the steps of one sequence that a request matches.
type Hit struct {
	Machine *Machine
	Steps   Steps // not empty
}

// Match returns what a request means, with at most one hit a sequence and none
// for sequences that ignore it. It appends the hits to buf[:0]. Its cost grows
// with the number of regular expressions in the set, not with that of paths.
func (s *Set) Match(r Request, buf []Hit) Knock {
	k := Knock{Hits: buf[:0], path: r.Path}
	for _, p := range s.paths[r.Path] {
		k.add(p, r)
	}
	if len(s.hashes) > 0 {
		for _, p := range s.hashes[sha256.Sum256([]byte(r.Path))] {
			k.add(p, r)
		}
	}
	for _, p := range s.patterns {
		if p.regex.MatchString(r.Path) {
			k.add(p.place, r)
		}
	}
	return k
}

// Steps returns the steps of a sequence that the knock matches, and whether it
// counts as a knock there at all.
func (k Knock) Steps(m *Machine) (steps Steps, counts bool) {
	for _, hit := range k.Hits {
		if hit.Machine == m {
			return hit.Steps, true
		}
	}
	return 0, !m.ignores(k.path)
}

func (k *Knock) add(p place, r Request) {
	if !p.trigger().meets(r) || p.machine.ignores(r.Path) {
		return
	}
	for i := range k.Hits {
		if k.Hits[i].Machine == p.machine {
			k.Hits[i].Steps |= 1 << p.step
			return
		}
	}
	k.Hits = append(k.Hits, Hit{p.machine, 1 << p.step})
}

func (p place) trigger() *Trigger { return &p.machine.spec.Steps[p.step].Trigger }

// meets reports whether all that the trigger asks besides the path holds.
func (t *Trigger) meets(r Request) bool {
	if t.Method != "" && t.Method != r.Method {
		return false
	}
	if t.Host != "" && !strings.EqualFold(hostname(t.Host), hostname(r.Host)) {
		return false
	}
	if len(t.Query) == 0 {
		return true
	}
	query, _ := url.ParseQuery(r.RawQuery) // what does not parse is not there
	for name, value := range t.Query {
		if got := query[name]; len(got) != 1 || got[0] != value {
			return false
		}
	}
	return true
}

// hostname returns a host without its port and an IPv6 address without its
// brackets (RFC 3986 section 3.2.2).
func hostname(host string) string {
	if strings.HasPrefix(host, "[") {
		if end := strings.IndexByte(host, ']'); end > 0 {
			return host[1:end]
		}
		return host
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Count(host, ":") == 1 {
		return host[:i]
	}
	return host
}
