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
)

// A decoder walks the parsed file, and collects what is wrong with it.
type decoder struct {
	name     string // of the file
	errs     Errors
	warnings []string
	steps    map[string]*yaml.Node // by their key

	// kept is the source of a configuration that was in force. With it, errors
	// of other files than that are only lacks.
	kept  *Source
	lacks []string

	unwritten map[*yaml.Node]User // whose totp_file is not there yet, by the node of its path
}

func (d *decoder) errorf(n *yaml.Node, key, format string, args ...any) {
	d.errs = append(d.errs, d.at(n, key, fmt.Sprintf(format, args...)))
}

// lackf reports an error of something outside of the configuration's own text:
// a file or a user. A configuration that was in force does without.
func (d *decoder) lackf(n *yaml.Node, key, format string, args ...any) {
	if d.kept == nil {
		d.errorf(n, key, format, args...)
		return
	}
	d.lacks = append(d.lacks, key+": "+fmt.Sprintf(format, args...))
}

// warnf remembers what is allowed, and should be mended.
func (d *decoder) warnf(n *yaml.Node, key, format string, args ...any) {
	d.warnings = append(d.warnings, d.at(n, key, fmt.Sprintf(format, args...)).Error())
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

// mapping hands the values of a mapping to fields. It returns the keys there
// are.
func (d *decoder) mapping(n *yaml.Node, key string, f fields) map[string]*yaml.Node {
	seen := map[string]*yaml.Node{}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return seen
	}
	if n.Kind != yaml.MappingNode {
		d.errorf(n, key, "not a mapping (write its keys as %s)", strings.Join(slices.Sorted(maps.Keys(f)), ", "))
		return seen
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		path := strings.TrimPrefix(key+"."+name.Value, ".")
		set, known := f[name.Value]
		switch {
		case seen[name.Value] != nil:
			d.errorf(name, path, "is there twice (once)")
		case !known:
			d.errorf(name, path, "unknown key (%s)", suggest(name.Value, slices.Sorted(maps.Keys(f))))
		default:
			seen[name.Value] = value
			set(value, path)
		}
	}
	return seen
}

// list calls f with each item of a list.
func (d *decoder) list(n *yaml.Node, key string, f func(n *yaml.Node, key string)) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.errorf(n, key, "not a list (write [one, two])")
		return
	}
	for i, item := range n.Content {
		f(item, fmt.Sprintf("%s[%d]", key, i))
	}
}

// text reads a string.
func (d *decoder) text(n *yaml.Node, key string) (string, bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.errorf(n, key, "not a string")
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
			d.errorf(n, key, "%q is no boolean (true or false)", s)
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
			d.errorf(n, key, "%q is no duration (write one like 30s or 1m30s)", s)
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
			d.errorf(n, key, "%q is unknown (%s)", s, suggest(s, words))
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

// suggest returns which of the words may have been meant.
func suggest(word string, words []string) string {
	best, least := "", 3
	for _, w := range words {
		if n := distance(strings.ToLower(word), w); n < least {
			best, least = w, n
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "one of " + strings.Join(words, ", ")
}

// distance is the number of letters to change, add or drop to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0]++
		for j := range len(b) {
			replace := last
			if a[i] != b[j] {
				replace++
			}
			last = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// sorted returns the errors in the order of the file.
func (d *decoder) sorted() Errors {
	slices.SortStableFunc(d.errs, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return d.errs
}
