package config

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"webknock/internal/hostname"
	"webknock/internal/notice"
	"webknock/sequence"
)

func (d *decoder) sequence(n *yaml.Node, key string, cfg *Config, doors, users, seen *names) {
	s := Sequence{Spec: sequence.Spec{Strict: true, Ignore: []string{"/favicon.ico", "/robots.txt", "/apple-touch-icon.png"}}}
	within := 10 * time.Second
	var targets []notice.Target
	both := func() []string { return slices.Concat(s.Opens, s.Closes) }
	there := d.mapping(n, key, fields{
		"name": d.named(&s.Name, seen),
		"steps": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				s.Steps = append(s.Steps, d.step(n, key, len(s.Steps) == 0))
			})
			if count := len(s.Steps); (count < 1 || count > sequence.MaxSteps) && !d.wrong(key) {
				d.errorf(n, key, "has %d steps (1 to %d)", count, sequence.MaxSteps)
			}
		},
		"within": d.duration(&within, time.Millisecond, maxWithin),
		"window": d.duration(&s.Window, 0, maxWithin),
		"strict": d.boolean(&s.Strict),
		"ignore": func(n *yaml.Node, key string) {
			s.Ignore = []string{}
			d.list(n, key, func(n *yaml.Node, key string) {
				if p, ok := d.text(n, key); ok && d.plainPath(n, key, p) {
					s.Ignore = append(s.Ignore, p)
				}
			})
		},
		"users":         d.reference(&s.Users, users, func() []string { return s.Users }, "once"),
		"opens":         d.reference(&s.Opens, doors, both, "once, in opens or closes"),
		"closes":        d.reference(&s.Closes, doors, both, "once, in opens or closes"),
		"run":           d.commands(&s.Run),
		"notify":        d.targets(&targets, ofSequences, notice.Completion),
		"message":       d.str(&s.Message),
		"allow_address": d.boolean(&s.AllowAddress),
	})
	d.need(n, key, there, "name", "like ssh")
	d.need(n, key, there, "steps", "1 to 32, like [/a, /b, /c]")
	if there.known && len(s.Opens)+len(s.Closes)+len(s.Run)+len(targets) == 0 && s.Message == "" && len(there.meant) == 0 &&
		!d.wrong(key+".opens", key+".closes", key+".run", key+".notify", key+".message") {
		d.errorf(n, key, "does nothing when it completes (opens, closes, run, notify or message)")
	}
	for i, c := range s.Run {
		if c.On != OnComplete && c.On != "" && !there.has("opens") {
			d.errorAt(fmt.Sprintf("%s.run[%d].on", key, i), "%s, but the sequence opens nothing (opens, or on: complete)", c.On)
		}
	}
	for _, t := range targets {
		t.Sequence = s.Name
		cfg.Notify = append(cfg.Notify, t)
	}
	oneTime := s.has(sequence.TOTP, sequence.Ticket)
	steps := there.has("steps") && !there.meant["steps"] && !d.wrong(key+".steps")
	if len(s.Users) > 0 && !oneTime && steps {
		d.errorAt(key+".users", "no step asks who knocks (a step like /k/{totp}, or leave it out)")
	}
	if s.AllowAddress && !s.has(sequence.Ticket) && steps {
		d.errorAt(key+".allow_address", "only a ticket can name an address (a step like /t/{ticket}, or leave it out)")
	}
	for i := range s.Steps {
		if i > 0 && s.Steps[i].Within == 0 {
			s.Steps[i].Within = within
		}
		step := fmt.Sprintf("%s.steps[%d]", key, i)
		if s.Steps[i].Trigger.Template != "" && len(users.all) == 0 && !users.incomplete {
			d.errorAt(step, "asks for something of a user, and there are none (webknock user add NAME)")
		}
		if matchesOneOf(s.Steps[i].Trigger, s.Ignore) {
			d.errorAt(step, "is ignored by its own sequence (take it out of ignore)")
		}
	}
	cfg.Sequences = append(cfg.Sequences, s)
}

// matchesOneOf reports whether a trigger stands for one of the paths.
func matchesOneOf(t sequence.Trigger, paths []string) bool {
	if t.Hash != "" {
		return slices.ContainsFunc(paths, func(p string) bool { return fmt.Sprintf("%x", sha256.Sum256([]byte(p))) == t.Hash })
	}
	path := cmp.Or(t.Path, t.Template)
	return path != "" && slices.Contains(paths, path)
}

// plainPath reports whether p can be the path of a request, as it is compared. If
// not, that is an error.
func (d *decoder) plainPath(n *yaml.Node, key, p string) bool {
	if strings.ContainsAny(p, "{}") {
		d.errorf(n, key, "only steps have templates (write a path as it is)")
		return false
	}
	if err := (sequence.Trigger{Path: p}).Validate(); err != nil || p == "" {
		d.errorf(n, key, "%v", cmp.Or(err, errNoPath))
		return false
	}
	if strings.Contains(p, "*") {
		d.warnf(n, key, "a * stands for itself here, not for any text (list each path)")
	}
	return true
}

var errNoPath = errors.New("is empty (a path starts with /)")

// step reads a step: a path, or a mapping.
func (d *decoder) step(n *yaml.Node, key string, first bool) sequence.Step {
	var s sequence.Step
	t := &s.Trigger
	path := func(n *yaml.Node, key string) {
		text, ok := d.text(n, key)
		hash, hashed := strings.CutPrefix(text, "sha256:")
		switch {
		case !ok:
		case text == "":
			d.errorf(n, key, "%v", errNoPath)
		case hashed && hash == "":
			d.errorf(n, key, "the hash is missing (webknock hash prints one)")
		case hashed:
			t.Hash = strings.ToLower(hash)
		case strings.Contains(text, sequence.TOTP) || strings.Contains(text, sequence.Ticket):
			t.Template = text
		default:
			t.Path = text
		}
	}
	before := len(d.errs)
	if n.Kind == yaml.ScalarNode {
		path(n, key)
	} else {
		there := d.mapping(n, key, fields{
			"path": path,
			"regex": func(n *yaml.Node, key string) {
				d.str(&t.Regex)(n, key)
				if strings.Contains(t.Regex, sequence.TOTP) || strings.Contains(t.Regex, sequence.Ticket) {
					d.errorf(n, key, "a regex holds no {totp} and no {ticket} (write a path with it)")
				}
			},
			"method": d.str(&t.Method),
			"host":   func(n *yaml.Node, key string) { t.Host = d.host(n, key) },
			"query":  func(n *yaml.Node, key string) { t.Query = d.query(n, key) },
			"scheme": d.oneOf(&t.Scheme, "http", "https"),
			"within": func(n *yaml.Node, key string) {
				d.duration(&s.Within, time.Millisecond, maxWithin)(n, key)
				if first {
					d.errorf(n, key, "the first step has no step before it (leave it out)")
				}
			},
		})
		if there.known && !there.has("path", "regex") && len(d.errs) == before {
			d.errorf(n, key, "needs either path or regex (like {path: /a})")
		}
	}
	if len(d.errs) > before {
		return s
	}
	if err := t.Validate(); err != nil {
		d.errorf(n, key, "%v", err)
	} else if strings.Contains(cmp.Or(t.Path, t.Template), "*") {
		d.warnf(n, key, "a * stands for itself here, not for any text (a regex has .*)")
	}
	return s
}

// host reads the host of a step, as it is compared: without its port.
func (d *decoder) host(n *yaml.Node, key string) string {
	s, ok := d.text(n, key)
	if !ok {
		return ""
	}
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil && port != "" {
		host = h
	}
	if addr, isAddr := hostname.Address(host); isAddr {
		return addr.WithZone("").String()
	}
	ascii, err := hostname.ASCII(host)
	switch {
	case strings.Contains(host, "*"):
		d.errorf(n, key, "%q is a wildcard, which stands for itself alone here (one host name, or leave it out for any)", s)
	case err != nil:
		d.errorf(n, key, "%q %v", s, err)
	}
	return ascii
}

// query reads the parameters of a step.
func (d *decoder) query(n *yaml.Node, key string) map[string]string {
	all := map[string]string{}
	if n.Kind != yaml.MappingNode {
		d.errorf(n, key, "is not a mapping (write {name: value})")
		return all
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		key := key + "." + name.Value
		switch _, twice := all[name.Value]; {
		case name.Kind != yaml.ScalarNode:
			d.errorf(name, key, "a bracket or brace stands where a name would (quote what holds one)")
		case twice:
			d.errorf(name, key, "is there twice (once: a parameter that a request has twice never matches)")
		case value.Kind != yaml.ScalarNode || isNull(value):
			d.errorf(value, key, "is not a text (write '' for an empty value)")
		default:
			all[name.Value] = value.Value
		}
	}
	return all
}
