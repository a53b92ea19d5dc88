package config

import (
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"go.yaml.in/yaml/v3"
)

// parseTOML returns the top mapping of a TOML file as a YAML tree, in which each value
// knows its place.
func parseTOML(file string, data []byte) (*yaml.Node, error) {
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil { // finds errors that the parser below does not, like a key that is there twice
		e := Error{File: file, Msg: strings.TrimPrefix(err.Error(), "toml: ")}
		var at *toml.DecodeError
		if errors.As(err, &at) {
			e.Line, e.Col = at.Position()
		}
		return nil, Errors{e}
	}
	t := tomlTree{}
	t.Reset(data)
	root := &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}
	table := root
	for t.NextExpression() {
		switch e := t.Expression(); e.Kind {
		case unstable.KeyValue:
			t.set(table, e)
		case unstable.Table:
			table = t.enter(root, e.Key(), false)
		case unstable.ArrayTable:
			table = t.enter(root, e.Key(), true)
		}
	}
	return root, t.Error()
}

// A tomlTree turns TOML nodes into YAML nodes.
type tomlTree struct{ unstable.Parser }

// node returns a node with the place of n. If n has none, it gets that of near.
func (t *tomlTree) node(kind yaml.Kind, tag string, n *unstable.Node, near *yaml.Node) *yaml.Node {
	to := &yaml.Node{Kind: kind, Tag: tag, Value: string(n.Data)}
	if n.Raw.Length > 0 {
		start := t.Shape(n.Raw).Start
		to.Line, to.Column = start.Line, start.Column
	} else if near != nil {
		to.Line, to.Column = near.Line, near.Column
	}
	return to
}

// enter returns the table at a dotted key, and makes it if it does not exist. In an
// array of tables it appends a new one.
func (t *tomlTree) enter(table *yaml.Node, key unstable.Iterator, appended bool) *yaml.Node {
	for key.Next() {
		name := t.node(yaml.ScalarNode, "!!str", key.Node(), nil)
		value := child(table, name.Value)
		if value == nil {
			value = &yaml.Node{Kind: yaml.MappingNode, Line: name.Line, Column: name.Column}
			if appended && key.IsLast() {
				value.Kind = yaml.SequenceNode
			}
			table.Content = append(table.Content, name, value)
		}
		if value.Kind == yaml.SequenceNode {
			if key.IsLast() {
				value.Content = append(value.Content, &yaml.Node{Kind: yaml.MappingNode, Line: name.Line, Column: name.Column})
			}
			value = value.Content[len(value.Content)-1]
		}
		table = value
	}
	return table
}

// child returns the value of a key of a mapping, or nil.
func child(table *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(table.Content); i += 2 {
		if table.Content[i].Value == name {
			return table.Content[i+1]
		}
	}
	return nil
}

// set puts a key and its value into a table.
func (t *tomlTree) set(table *yaml.Node, n *unstable.Node) {
	for key := n.Key(); key.Next(); {
		name := t.node(yaml.ScalarNode, "!!str", key.Node(), nil)
		if key.IsLast() {
			table.Content = append(table.Content, name, t.value(n.Value(), name))
			return
		}
		inner := child(table, name.Value)
		if inner == nil {
			inner = &yaml.Node{Kind: yaml.MappingNode, Line: name.Line, Column: name.Column}
			table.Content = append(table.Content, name, inner)
		}
		table = inner
	}
}

func (t *tomlTree) value(n *unstable.Node, near *yaml.Node) *yaml.Node {
	switch n.Kind {
	case unstable.Array:
		list := t.node(yaml.SequenceNode, "!!seq", n, near)
		for items := n.Children(); items.Next(); {
			list.Content = append(list.Content, t.value(items.Node(), list))
		}
		return list
	case unstable.InlineTable:
		table := t.node(yaml.MappingNode, "!!map", n, near)
		for items := n.Children(); items.Next(); {
			t.set(table, items.Node())
		}
		return table
	}
	return t.node(yaml.ScalarNode, "!!str", n, near)
}
