package sequence

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A Request is what a trigger looks at.
type Request struct {
	Method   string
	Host     string // with or without a port
	Path     string // percent-decoded once, not cleaned
	RawQuery string // as it stood in the request
	Scheme   string // HTTP or HTTPS; anything else matches neither
}

// A Set is all sequences of a configuration, ready to match requests. It never
// changes and may be shared between goroutines.
type Set struct {
	machines []*Machine
	paths    map[string][]place
	hashes   map[[sha256.Size]byte][]place
	patterns []pattern

	templates map[string][]template // by what stands before the variable
	prefixes  []int                 // the lengths of the keys of templates
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

type template struct {
	place
	variable string // TOTP or Ticket
	suffix   string // what stands behind the variable
}

// NewSet returns the set of the given sequences. The machine of a sequence
// that stands unchanged in old is taken over, so that a State goes on counting
// exactly as long as its Machine is in the set. Old may be nil.
func NewSet(specs []Spec, old *Set) (*Set, error) {
	s := &Set{paths: map[string][]place{}, hashes: map[[sha256.Size]byte][]place{}, templates: map[string][]template{}}
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
	case t.Template != "":
		prefix, suffix, _ := splitTemplate(t.Template) // validated by NewMachine
		variable := t.Template[len(prefix) : len(t.Template)-len(suffix)]
		s.templates[prefix] = append(s.templates[prefix], template{p, variable, suffix})
		if !slices.Contains(s.prefixes, len(prefix)) {
			s.prefixes = append(s.prefixes, len(prefix))
		}
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

// A Match is what one request means to the sequences of a Set. It stays valid
// until the slice that was given to Match is used again.
type Match struct {
	Hits []Hit
	// Candidates are the one-time steps that the request would match if its
	// code were good. They are no hits, until Accept makes them some.
	Candidates []Candidate
	path       string
	struck     bool
}

// A Candidate is a one-time step whose template a request fits.
type Candidate struct {
	Machine  *Machine
	Step     int    // index
	Variable string // TOTP or Ticket
	Code     string // the segment in the variable's place; not empty
}

// A Hit is the steps of one sequence that a request matches.
type Hit struct {
	Machine    *Machine
	Steps      Steps       // not empty
	Credential *Credential // for the one-time steps among Steps; nil: there are none
}

// Match returns what a request means, with at most one hit a sequence and none
// for sequences that ignore it. It appends the hits to buf[:0]. Its cost grows
// with the number of regular expressions in the set, not with that of paths.
func (s *Set) Match(r Request, buf []Hit) Match {
	k := Match{Hits: buf[:0], path: r.Path}
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
	for _, n := range s.prefixes {
		if n < len(r.Path) && r.Path[n-1] == '/' {
			k.nominate(s.templates[r.Path[:n]], r.Path[n:], r)
		}
	}
	return k
}

// Concerns reports whether a request for path may match a step; whether it does
// depends on the rest of it. It does not allocate.
func (s *Set) Concerns(path string) bool {
	if _, ok := s.paths[path]; ok {
		return true
	}
	if len(s.hashes) > 0 {
		if _, ok := s.hashes[sha256.Sum256([]byte(path))]; ok {
			return true
		}
	}
	for _, p := range s.patterns {
		if p.regex.MatchString(path) {
			return true
		}
	}
	for _, n := range s.prefixes {
		if n < len(path) && len(s.templates[path[:n]]) > 0 {
			return true
		}
	}
	return false
}

// nominate adds the candidates among templates whose variable rest begins with.
func (k *Match) nominate(templates []template, rest string, r Request) {
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	for _, t := range templates {
		if end > 0 && rest[end:] == t.suffix && t.trigger().meets(r) && !t.machine.ignores(r.Path) {
			k.Candidates = append(k.Candidates, Candidate{t.machine, t.step, t.variable, rest[:end]})
		}
	}
}

// Accept makes a hit of a candidate whose code was found good. Of a sequence no
// more than one candidate may pass.
func (k *Match) Accept(c Candidate, p *Credential) {
	k.hit(place{c.Machine, c.Step}).Credential = p
}

// Strike makes the knock count in no sequence, as if it had never been made. It is
// for a client that sends again a one-time code that it has used itself.
func (k *Match) Strike() { k.Hits, k.Candidates, k.struck = k.Hits[:0], nil, true }

// Steps returns the steps of a sequence that the knock matches, and whether it
// counts as a knock there at all.
func (k Match) Steps(m *Machine) (steps Steps, counts bool) {
	hit, counts := k.Hit(m)
	return hit.Steps, counts
}

// Hit is Steps, with the pass beside the steps. A knock that matches no step of
// the sequence has the zero Hit.
func (k Match) Hit(m *Machine) (hit Hit, counts bool) {
	for _, hit := range k.Hits {
		if hit.Machine == m {
			return hit, true
		}
	}
	return Hit{}, !k.struck && !m.ignores(k.path)
}

func (k *Match) add(p place, r Request) {
	if p.trigger().meets(r) && !p.machine.ignores(r.Path) {
		k.hit(p)
	}
}

// hit adds a step to the hits, and returns the hit that has it.
func (k *Match) hit(p place) *Hit {
	for i := range k.Hits {
		if k.Hits[i].Machine == p.machine {
			k.Hits[i].Steps |= 1 << p.step
			return &k.Hits[i]
		}
	}
	k.Hits = append(k.Hits, Hit{Machine: p.machine, Steps: 1 << p.step})
	return &k.Hits[len(k.Hits)-1]
}

func (p place) trigger() *Trigger { return &p.machine.spec.Steps[p.step].Trigger }

// meets reports whether all that the trigger asks besides the path holds.
func (t *Trigger) meets(r Request) bool {
	if t.Method != "" && t.Method != r.Method {
		return false
	}
	if t.Scheme != "" && t.Scheme != r.Scheme {
		return false
	}
	if t.Host != "" && !sameHost(hostname(t.Host), hostname(r.Host)) {
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

// sameHost compares host names without case, and addresses however they are
// written.
func sameHost(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	if !strings.Contains(a, ":") {
		return false
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x == y
}

// hostname returns a host without its port and its trailing dot, and an IPv6
// address without its brackets (RFC 3986 section 3.2.2).
func hostname(host string) string {
	return strings.TrimSuffix(withoutPort(host), ".")
}

func withoutPort(host string) string {
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
