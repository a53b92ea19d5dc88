package config

import (
	"fmt"
	"slices"
	"time"

	"webknock/internal/notice"
	"webknock/sequence"
)

// Sequence is a sequence, and what completing it does.
type Sequence struct {
	sequence.Spec
	Opens        []string // doors
	Closes       []string // doors
	Run          []Command
	Users        []string // who may use the one-time steps; empty: all users
	AllowAddress bool     // a ticket may name another address to open for
	Message      string   // for the log
}

// sequenceSection is a sequence as it stands in a file.
type sequenceSection struct {
	Name         string        `mapstructure:"name" is:"name" required:"like ssh"`
	Steps        []step        `mapstructure:"steps" required:"1 to 32, like [/a, /b, /c]"`
	Within       time.Duration `mapstructure:"within" limits:"1ms..24h"` // of steps that say nothing else
	Window       time.Duration `mapstructure:"window" limits:"0s..24h"`
	Strict       bool          `mapstructure:"strict"`
	Ignore       []string      `mapstructure:"ignore" is:"request path"`
	Users        []string      `mapstructure:"users" is:"reference"`
	Opens        []string      `mapstructure:"opens" is:"reference"`
	Closes       []string      `mapstructure:"closes" is:"reference"`
	Run          []Command     `mapstructure:"run"`
	Notify       []target      `mapstructure:"notify"`
	Message      string        `mapstructure:"message"`
	AllowAddress bool          `mapstructure:"allow_address"`
}

func (s *sequenceSection) setDefaults() {
	*s = sequenceSection{Within: 10 * time.Second, Strict: true, Ignore: []string{"/favicon.ico", "/robots.txt", "/apple-touch-icon.png"}}
}

// sequence returns the sequence without its steps.
func (s *sequenceSection) sequence() Sequence {
	return Sequence{
		Spec:  sequence.Spec{Name: s.Name, Window: s.Window, Strict: s.Strict, Ignore: s.Ignore},
		Opens: s.Opens, Closes: s.Closes, Run: s.Run, Users: s.Users, AllowAddress: s.AllowAddress, Message: s.Message,
	}
}

// validateSequences returns the sequences, and adds their notices to those of
// cfg.
func (d *decoder) validateSequences(sections []sequenceSection, doors, users *names, cfg *Config) (sequences []Sequence) {
	seen := newNames("sequence", "sequences")
	for i := range sections {
		s := &sections[i]
		key := fmt.Sprintf("sequences[%d]", i)
		d.newName(key, s.Name, seen)
		d.references(key+".users", s.Users, users, nil, "remove one")
		d.references(key+".opens", s.Opens, doors, nil, "name it once, in opens or closes")
		d.references(key+".closes", s.Closes, doors, s.Opens, "name it once, in opens or closes")
		s.Run = d.validateCommands(key+".run", s.Run)
		targets := d.validateTargets(key+".notify", s.Notify, ofSequences, notice.Completion)
		for _, t := range targets {
			t.Sequence = s.Name
			cfg.Notify = append(cfg.Notify, t)
		}
		result := s.validate(d, key, users, len(targets) > 0)
		if !d.wrong(key) {
			result.warn(d, key)
		}
		sequences = append(sequences, result)
	}
	return sequences
}

func (s *sequenceSection) validate(d *decoder, key string, users *names, notifies bool) Sequence {
	there := d.keys[key]
	result := s.sequence()
	result.Steps = d.validateSteps(key+".steps", s.Steps, s.Within)
	if count := len(s.Steps); there.at("steps") != nil && (count < 1 || count > sequence.MaxSteps) && !d.wrong(key+".steps") {
		d.errorAt(key+".steps", "has %d steps (1 to %d)", count, sequence.MaxSteps)
	}
	if there.known && len(s.Opens)+len(s.Closes)+len(s.Run) == 0 && !notifies && s.Message == "" && len(there.misspelled) == 0 &&
		!d.wrong(key+".opens", key+".closes", key+".run", key+".notify", key+".message") {
		d.errorAt(key, "does nothing when it completes (opens, closes, run, notify or message)")
	}
	for i, c := range s.Run {
		if c.On != OnComplete && c.On != "" && !there.has("opens") {
			d.errorAt(fmt.Sprintf("%s.run[%d].on", key, i), "%s, but the sequence opens nothing (opens, or on: complete)", c.On)
		}
	}
	steps := there.has("steps") && !there.misspelled["steps"] && !d.wrong(key+".steps")
	if len(s.Users) > 0 && !result.has(sequence.TOTP, sequence.Ticket) && steps {
		d.errorAt(key+".users", "no step asks who knocks (a step like /k/{totp}, or leave it out)")
	}
	if s.AllowAddress && !result.has(sequence.Ticket) && steps {
		d.errorAt(key+".allow_address", "only a ticket can name an address (a step like /t/{ticket}, or leave it out)")
	}
	for i := range result.Steps {
		at := fmt.Sprintf("%s.steps[%d]", key, i)
		step := result.Steps[i]
		if step.Trigger.Variable() != "" && len(users.all) == 0 && !users.incomplete {
			d.errorAt(at, "asks for something of a user, and there are none (webknock user add NAME)")
		}
		if matchesOneOf(step, s.Ignore) {
			d.errorAt(at, "is ignored by its own sequence (take it out of ignore)")
		}
	}
	return result
}

const (
	roundTrip  = 100 * time.Millisecond // usual over a long distance
	shortPath  = 16                     // bytes; nobody finds a path of this length by trying
	codePeriod = 30 * time.Second       // for which a phone app shows the same code
)

// warn reports what is allowed but rarely meant in a sequence by itself.
func (s *Sequence) warn(d *decoder, key string) {
	last, first := len(s.Steps)-1, s.Steps[0]
	for i, step := range s.Steps {
		at := fmt.Sprintf("%s.steps[%d]", key, i)
		if why := everybodyRequests(step); why != "" {
			d.warnAt(at, "%s, so that it keeps nobody out (webknock hash --random invents a path)", why)
		}
		if i > 0 && step.Within < roundTrip {
			d.warnAt(at, "%v is shorter than a request takes over a long distance, so that hardly anybody completes this (write within: 5s)", step.Within)
		}
	}
	if s.Window > 0 && s.Window < time.Duration(last)*roundTrip {
		d.warnAt(key+".window", "%v is shorter than %d requests take over a long distance, so that hardly anybody completes this (write 30s)", s.Window, len(s.Steps))
	}
	if path, exact := first.Trigger.(sequence.Exact); last == 0 && exact && path != "" && len(path) < shortPath && len(first.Query) == 0 && everybodyRequests(first) == "" {
		d.warnAt(key+".steps[0]", "a single short step: anyone who tries common paths finds it (use more steps, or a path from webknock hash --random)")
	}
	if last > 0 && !slices.ContainsFunc(s.Steps, func(o sequence.Step) bool { return !o.SameRequest(first) }) {
		d.warnAt(key+".steps", "all steps are the same request, and browsers repeat a request that was reset up to ten times: a single visit completes the sequence (use different paths)")
	}
	code := -1 // the last step with a one-time code
	for i, step := range s.Steps {
		if step.Trigger.Variable() != sequence.TOTP {
			continue
		}
		if code >= 0 && s.timeOf(code, i) < codePeriod {
			d.warnAt(fmt.Sprintf("%s.steps[%d]", key, i), "each code counts once, and a phone shows the next one only after up to 30s (write within: 40s)")
		}
		code = i
	}
}

// Admits reports whether a user may use the one-time steps of the sequence. It
// is false if there are none.
func (s Sequence) Admits(user string) bool {
	return s.has(sequence.TOTP, sequence.Ticket) && (len(s.Users) == 0 || slices.Contains(s.Users, user))
}

// has reports whether a step of the sequence holds one of the variables.
func (s Sequence) has(variables ...string) bool {
	return slices.ContainsFunc(s.Steps, func(step sequence.Step) bool {
		return slices.Contains(variables, step.Trigger.Variable())
	})
}

// time returns how long a client has from the first step to the last.
func (s *Sequence) time() time.Duration { return s.timeOf(0, len(s.Steps)-1) }

// timeOf returns how long a client has from one step to a later one.
func (s *Sequence) timeOf(from, to int) (t time.Duration) {
	for _, step := range s.Steps[from+1 : to+1] {
		t += step.Within
	}
	if s.Window > 0 {
		t = min(t, s.Window)
	}
	return t
}
