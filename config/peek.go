package config

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// Basics is what a command needs to find the daemon, the table and the state.
// No field is empty.
type Basics struct {
	Socket string // admin.socket
	Table  string // firewall.table
	State  string // state, a directory
}

// Peek returns the basics of a configuration that may have any error, or may
// not be there: commands that help to repair a host work with them. It never
// fails. What it cannot read, or what is not valid by itself, has its default;
// the environment goes before the file, as it does in Load.
func Peek(file string) Basics {
	root := &yaml.Node{Kind: yaml.MappingNode}
	if data, err := os.ReadFile(file); err == nil {
		root = peek(file, data)
	}
	if values, err := environment(); err == nil {
		override(root, values)
	}
	return basics(root)
}

// PeekSource is Peek for what was in force.
func PeekSource(s *Source) Basics {
	root := peek(s.File, []byte(s.Text))
	override(root, s.Environment)
	return basics(root)
}

func basics(root *yaml.Node) Basics {
	value := func(valid func(string) bool, path ...string) string {
		n := root
		for _, name := range path {
			if n = value(n, name); n == nil {
				return ""
			}
		}
		if n.Kind != yaml.ScalarNode || !valid(n.Value) {
			return ""
		}
		return n.Value
	}
	return Basics{
		Socket: cmp.Or(value(filepath.IsAbs, "admin", "socket"), overrides["admin.socket"]),
		Table:  cmp.Or(value(tableName.MatchString, "firewall", "table"), overrides["firewall.table"]),
		State:  cmp.Or(value(filepath.IsAbs, "state"), overrides["state"]),
	}
}

// value returns the value of a key of a mapping, or nil.
func value(n *yaml.Node, name string) *yaml.Node {
	if n = resolve(n); n.Kind != yaml.MappingNode {
		return nil
	}
	if v := child(n, name); v != nil {
		return resolve(v)
	}
	return nil
}

// section finds the lines at which the sections begin that peek looks for.
var section = regexp.MustCompile(`(?m)^(?:\[?[a-z]+\]?|"[a-z]+")[ \t]*[:=\n].*$`)

// peek returns the tree of a file or, if its syntax is wrong, of those top
// sections of it whose own syntax is right.
func peek(file string, data []byte) *yaml.Node {
	if root, err := parse(file, data); err == nil {
		return root
	}
	var doc yaml.Node
	if filepath.Ext(file) != ".toml" && yaml.Unmarshal(data, &doc) == nil && len(doc.Content) > 0 {
		return doc.Content[0] // the first of several documents
	}
	whole := &yaml.Node{Kind: yaml.MappingNode}
	starts := section.FindAllIndex(data, -1)
	for i, start := range starts {
		end := len(data)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		if part, err := parse(file, data[start[0]:end]); err == nil && part.Kind == yaml.MappingNode {
			whole.Content = append(whole.Content, part.Content...)
		}
	}
	return whole
}

// DefaultState returns the directory that keeps what must survive, unless a file
// says otherwise.
func DefaultState() string {
	if values, err := environment(); err == nil && filepath.IsAbs(values["state"]) {
		return values["state"]
	}
	return overrides["state"]
}
