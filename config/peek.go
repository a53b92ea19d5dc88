package config

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Basics is what a command needs to find the daemon, its nftables table and its state.
// No field is empty.
type Basics struct {
	Socket string // admin.socket
	Table  string // firewall.table
	State  string // state, a directory
}

// Peek returns the basics of a configuration that may have errors or may not exist. It
// is for commands that help to repair a host, and never fails: a value that it cannot
// read, or that is not valid, gets its default. The environment overrides the file, as
// in Load.
func Peek(file string) Basics {
	root := &yaml.Node{Kind: yaml.MappingNode}
	if data, err := os.ReadFile(file); err == nil {
		root = peek(file, data)
	}
	values, _ := environment()
	return basics(root, values)
}

// PeekSource is Peek for a configuration that was in force.
func PeekSource(s *Source) Basics {
	return basics(peek(s.File, []byte(s.Text)), s.Environment)
}

func basics(root *yaml.Node, environment map[string]string) Basics {
	value := func(key string, valid func(string) bool) string {
		text := environment[key]
		if text == "" {
			n := root
			for name := range strings.SplitSeq(key, ".") {
				if n = valueOf(n, name); n == nil {
					return ""
				}
			}
			text = n.Value // empty if it is not a scalar
		}
		if !valid(text) {
			return ""
		}
		return text
	}
	return Basics{
		Socket: cmp.Or(value("admin.socket", filepath.IsAbs), defaultAdmin().Socket),
		Table:  cmp.Or(value("firewall.table", tableName.MatchString), defaultFirewall().Table),
		State:  cmp.Or(value("state", filepath.IsAbs), defaultState),
	}
}

// valueOf returns the value of a key of a mapping, or nil.
func valueOf(n *yaml.Node, name string) *yaml.Node {
	if n = resolve(n); n.Kind != yaml.MappingNode {
		return nil
	}
	if v := child(n, name); v != nil {
		return resolve(v)
	}
	return nil
}

// section matches the first lines of sections.
var section = regexp.MustCompile(`(?m)^(?:\[?[a-z]+\]?|"[a-z]+")[ \t]*[:=\n].*$`)

// peek returns the tree of a file. If its syntax is wrong, it returns the sections
// whose own syntax is right.
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
