package config

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"webknock/sequence"
)

// step is a step as it stands in a file: its path alone, or a mapping.
type step struct {
	Path   string        `mapstructure:"path" is:"step"`
	Regex  string        `mapstructure:"regex" is:"regex"`
	Method string        `mapstructure:"method" is:"method"`
	Host   string        `mapstructure:"host" is:"host"`
	Query  query         `mapstructure:"query"`
	Scheme string        `mapstructure:"scheme" words:"http https"`
	Within time.Duration `mapstructure:"within" limits:"1ms..24h"` // 0: that of the sequence
}

func (s *step) read(d *decoder, v *value) any {
	if v.node.Kind != yaml.ScalarNode {
		return d.mapping(v, s)
	}
	if text, ok := d.text(v); ok {
		s.Path, _ = d.stepPath(v, text).(string)
	}
	return nil
}

const hashPrefix = "sha256:" // before the hash of a path

// isTemplate reports whether a path holds a one-time variable.
func isTemplate(path string) bool {
	return strings.Contains(path, sequence.TOTP) || strings.Contains(path, sequence.Ticket)
}

// trigger returns the trigger of the step. A step that is wrong has one as well,
// so that checks need not look for nil.
func (s *step) trigger() sequence.Trigger {
	hash, hashed := strings.CutPrefix(s.Path, hashPrefix)
	switch {
	case hashed:
		return sequence.Hash(strings.ToLower(hash))
	case isTemplate(s.Path):
		return sequence.Template(s.Path)
	case s.Path == "" && s.Regex != "":
		return sequence.Regex(s.Regex)
	}
	return sequence.Exact(s.Path)
}

// step returns the step without its time limit.
func (s *step) step() sequence.Step {
	return sequence.Step{
		Trigger:    s.trigger(),
		Conditions: sequence.Conditions{Method: s.Method, Host: s.Host, Query: s.Query, Scheme: s.Scheme},
	}
}

// validateSteps returns the steps. Those that do not say within have that of the
// sequence.
func (d *decoder) validateSteps(key string, all []step, within time.Duration) (steps []sequence.Step) {
	for i := range all {
		at := fmt.Sprintf("%s[%d]", key, i)
		if i == 0 && d.keys[at].at("within") != nil && !d.wrong(at) {
			d.errorAt(at+".within", "the first step has no step before it (leave it out)")
		}
		all[i].validate(d, at)
		s := all[i].step()
		if i > 0 {
			s.Within = cmp.Or(all[i].Within, within)
		}
		steps = append(steps, s)
	}
	return steps
}

func (s *step) validate(d *decoder, key string) {
	if d.wrong(key) {
		return
	}
	if there := d.keys[key]; there.known && !there.has("path", "regex") {
		d.errorAt(key, "needs either path or regex (like {path: /a})")
		return
	}
	if (s.Path == "") == (s.Regex == "") {
		d.errorAt(key, "a step needs exactly one of path and regex")
	} else if err := s.step().Validate(); err != nil {
		d.errorAt(key, "%v", err)
	} else if !strings.HasPrefix(s.Path, hashPrefix) && strings.Contains(s.Path, "*") {
		d.warnAt(key, "a * stands for itself here, not for any text (a regex has .*)")
	}
}

// query is the parameters of a step. Their names keep their case.
type query map[string]string

func (q *query) read(d *decoder, v *value) any {
	all := map[string]string{}
	if v.node.Kind != yaml.MappingNode {
		d.errorf(v.node, v.key, "is not a mapping (write {name: value})")
		return nil
	}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		name, value := v.node.Content[i], v.node.Content[i+1]
		key := join(v.key, name.Value)
		switch _, twice := all[name.Value]; {
		case name.Kind != yaml.ScalarNode:
			d.errorf(name, key, "a bracket or brace stands where a name would (quote what holds one)")
		case twice:
			d.errorf(name, key, "is there twice (remove one: a parameter that a request has twice never matches)")
		case value.Kind != yaml.ScalarNode || isNull(value):
			d.errorf(value, key, "is not a text (write '' for an empty value)")
		default:
			all[name.Value] = value.Value
		}
	}
	*q = all
	return nil
}

// matchesOneOf reports whether a step stands for one of the paths.
func matchesOneOf(s sequence.Step, paths []string) bool {
	if hash, ok := s.Trigger.(sequence.Hash); ok {
		return slices.ContainsFunc(paths, func(p string) bool { return fmt.Sprintf("%x", sha256.Sum256([]byte(p))) == string(hash) })
	}
	path := writtenPath(s.Trigger)
	return path != "" && slices.Contains(paths, path)
}

// writtenPath returns the path of a trigger as the configuration has it. For a
// hash and a regex it returns the empty string.
func writtenPath(t sequence.Trigger) string {
	switch t := t.(type) {
	case sequence.Exact:
		return string(t)
	case sequence.Template:
		return string(t)
	}
	return ""
}
