package config

import (
	"fmt"
	"slices"
)

// names is the names of a section, which other sections refer to.
type names struct {
	what, section string // like door and doors
	all           []string
	incomplete    bool // an error that has been reported hides a name
}

func newNames(what, section string) *names { return &names{what: what, section: section} }

// newName adds the name of an item of the section, which nothing else there may
// have.
func (d *decoder) newName(key, name string, seen *names) {
	if slices.Contains(seen.all, name) && name != "" && !d.wrong(key+".name") {
		d.errorAt(key+".name", "there is another %s %q (give each a name of its own)", seen.what, name)
	}
	seen.incomplete = seen.incomplete || name == ""
	seen.all = append(seen.all, name)
}

// finish is called when all names of a section are known.
func (d *decoder) finish(seen *names) {
	seen.all = slices.DeleteFunc(seen.all, func(name string) bool { return name == "" })
	seen.incomplete = seen.incomplete || d.keys[""].misspelled[seen.section] || d.wrongHere(seen.section)
}

// references checks a list of names of another section, each of which may be in
// the list once and not be taken already.
func (d *decoder) references(key string, list []string, known *names, taken []string, once string) {
	for i, name := range list {
		at := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case d.wrong(at):
		case !slices.Contains(known.all, name):
			if !known.incomplete {
				d.errorAt(at, "there is no %s %q (%s)", known.what, name, known.suggest(name))
			}
		case slices.Contains(taken, name) || slices.Contains(list[:i], name):
			d.errorAt(at, "%s %q is there twice (%s)", known.what, name, once)
		}
	}
}

// suggest says what may have been meant by a name that is unknown.
func (n *names) suggest(name string) string {
	if len(n.all) == 0 {
		return "write it under " + n.section
	}
	return oneOfWords(name, n.all)
}
