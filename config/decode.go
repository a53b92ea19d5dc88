package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"webknock/internal/suggest"
)

// A decoder walks the parsed file, and collects what is wrong with it.
type decoder struct {
	name     string // of the file
	errs     Errors
	warnings Errors
	places   map[string]*yaml.Node // values by their keys
	files    []namedFile

	// kept is the source of a configuration that was in force. With it, errors
	// of other files than that are only lacks.
	kept  *Source
	lacks []string

	unwritten map[*yaml.Node]User // whose totp_file is not there yet, by the node of its path
}

// errorAt is errorf for a key whose place is known, or that of what it is in.
func (d *decoder) errorAt(key, format string, args ...any) {
	d.errorf(d.place(key), key, format, args...)
}

// lackAt is lackf for a key whose place is known, or that of what it is in.
func (d *decoder) lackAt(key, format string, args ...any) {
	d.lackf(d.place(key), key, format, args...)
}

// warnAt is warnf for a key whose place is known, or that of what it is in.
func (d *decoder) warnAt(key, format string, args ...any) {
	d.warnf(d.place(key), key, format, args...)
}

// place returns the value of a key, or of the nearest one around it.
func (d *decoder) place(key string) *yaml.Node {
	for key != "" {
		if n := d.places[key]; n != nil {
			return n
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return nil
}

// wrong reports whether there is an error at one of the keys or below it, so that
// what depends on it cannot be judged.
func (d *decoder) wrong(keys ...string) bool {
	return slices.ContainsFunc(d.errs, func(e Error) bool {
		return slices.ContainsFunc(keys, func(key string) bool {
			rest, below := strings.CutPrefix(e.Key, key)
			return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
		})
	})
}

// wrongHere is wrong for the key itself, and not for what is below it.
func (d *decoder) wrongHere(key string) bool {
	return slices.ContainsFunc(d.errs, func(e Error) bool { return e.Key == key })
}

func (d *decoder) errorf(n *yaml.Node, key, format string, args ...any) {
	d.errs = append(d.errs, d.at(n, key, fmt.Sprintf(format, args...)))
}

// lackf reports an error of something outside of the configuration's own text:
// a file or a user; or of what it does as a whole, which an earlier version may have
// allowed. A configuration that was in force does without.
func (d *decoder) lackf(n *yaml.Node, key, format string, args ...any) {
	if d.kept == nil {
		d.errorf(n, key, format, args...)
		return
	}
	d.lacks = append(d.lacks, key+": "+fmt.Sprintf(format, args...))
}

// warnf remembers what is allowed, and should be mended.
func (d *decoder) warnf(n *yaml.Node, key, format string, args ...any) {
	d.warnings = append(d.warnings, d.at(n, key, fmt.Sprintf(format, args...)))
}

func (d *decoder) at(n *yaml.Node, key, msg string) Error {
	e := Error{File: d.name, Key: key, Msg: msg}
	if n != nil {
		e.Line, e.Col = n.Line, n.Column
		if n.Tag == envTag {
			e.File, e.Line, e.Col = n.HeadComment, 0, 0
		}
	}
	return e
}

// envTag marks a node that stands for an environment variable, whose name is
// its HeadComment.
const envTag = "!env"

// fields says what is done with each key of a mapping.
type fields map[string]func(n *yaml.Node, key string)

// keys is the keys of a mapping: what stands in the file, with each value.
type keys struct {
	values map[string]*yaml.Node
	meant  map[string]bool // keys that most likely stand there misspelt
	known  bool            // it is a mapping, so that a key that is not there is missing
	others bool            // there are unknown keys
}

// at returns the value of a key, or nil.
func (k keys) at(name string) *yaml.Node { return k.values[name] }

// has reports whether a key is there, or is most likely meant by one that is.
func (k keys) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return k.values[name] != nil || k.meant[name] })
}

// mapping hands the values of a mapping to fields. It returns the keys there
// are.
func (d *decoder) mapping(n *yaml.Node, key string, f fields) keys {
	there := keys{values: map[string]*yaml.Node{}, meant: map[string]bool{}, known: true}
	if isNull(n) {
		return there
	}
	if n.Kind != yaml.MappingNode {
		there.known = false
		d.errorf(n, key, "is not a mapping (write its keys as %s)", strings.Join(slices.Sorted(maps.Keys(f)), ", "))
		return there
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		path := strings.TrimPrefix(key+"."+name.Value, ".")
		set, known := f[name.Value]
		switch {
		case name.Kind != yaml.ScalarNode:
			there.known = false
			d.errorf(name, key, "a bracket or brace stands where a key would (quote what holds one)")
		case there.values[name.Value] != nil:
			d.errorf(name, path, "is there twice (once)")
		case !known:
			there.others = true
			words := slices.Sorted(maps.Keys(f))
			there.meant[suggest.Closest(name.Value, words)] = true
			d.errorf(name, path, "unknown key (%s)", oneOfWords(name.Value, words))
		default:
			there.values[name.Value] = value
			d.places[path] = value
			set(value, path)
		}
	}
	return there
}

// list calls f with each item of a list.
func (d *decoder) list(n *yaml.Node, key string, f func(n *yaml.Node, key string)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.errorf(n, key, "is not a list (write [one, two])")
		return
	}
	for i, item := range n.Content {
		d.places[fmt.Sprintf("%s[%d]", key, i)] = item
		f(item, fmt.Sprintf("%s[%d]", key, i))
	}
}

// text reads a string.
func (d *decoder) text(n *yaml.Node, key string) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		switch n.Kind {
		case yaml.MappingNode:
			d.errorf(n, key, "is a mapping, and a text is wanted (quote what holds braces)")
		case yaml.SequenceNode:
			d.errorf(n, key, "is a list, and a text is wanted (quote what holds brackets)")
		default:
			d.errorf(n, key, "is empty, and a text is wanted (leave the key out, or quote '' for an empty one)")
		}
		return "", false
	}
	return n.Value, true
}

func (d *decoder) str(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		if s, ok := d.text(n, key); ok {
			*to = s
		}
	}
}

func (d *decoder) strs(to *[]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		all := []string{}
		d.list(n, key, func(n *yaml.Node, key string) {
			if s, ok := d.text(n, key); ok {
				all = append(all, s)
			}
		})
		*to = all
	}
}

func (d *decoder) boolean(to *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		switch {
		case !ok:
		case s == "true" || s == "false":
			*to = s == "true"
		default:
			d.errorf(n, key, "%q is not a boolean (true or false)", s)
		}
	}
}

func (d *decoder) integer(to *int, least, most int) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		if !ok {
			return
		}
		v, err := strconv.Atoi(s)
		if err != nil || v < least || v > most {
			d.errorf(n, key, "%q is not a number from %d to %d", s, least, most)
			return
		}
		*to = v
	}
}

func (d *decoder) duration(to *time.Duration, least, most time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		if !ok {
			return
		}
		if _, err := strconv.ParseFloat(s, 64); err == nil && !(s == "0" && least == 0) {
			d.errorf(n, key, "%s has no unit (write a duration like %ss)", s, s)
			return
		}
		v, err := time.ParseDuration(s)
		switch {
		case err != nil:
			d.errorf(n, key, "%q is not a duration (write one like 30s or 1m30s)", s)
		case v < least || v > most:
			d.errorf(n, key, "%v is out of range (%v to %v)", v, least, most)
		default:
			*to = v
		}
	}
}

func (d *decoder) oneOf(to *string, words ...string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		if ok && !slices.Contains(words, s) {
			d.errorf(n, key, "%q is unknown (%s)", s, oneOfWords(s, words))
			return
		}
		if ok {
			*to = s
		}
	}
}

// notYet refuses a key whose feature is not built, unless it is empty.
func (d *decoder) notYet(n *yaml.Node, key string) {
	if n.Kind != yaml.ScalarNode || n.Value != "" && n.Tag != "!!null" {
		d.errorf(n, key, "not supported yet (leave it out)")
	}
}

// oneOfWords returns which of the words may have been meant, or all of them.
func oneOfWords(word string, words []string) string {
	if best := suggest.Closest(word, words); best != "" {
		return "did you mean " + best + "?"
	}
	return "one of " + strings.Join(words, ", ")
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
}

// sorted returns the errors in the order of the file.
func (d *decoder) sorted() Errors {
	d.errs.sort()
	return d.errs
}
