package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"webknock/internal/suggest"
)

// ErrByHand means that an edit would change more of a file than was asked for. That
// is so of TOML, of JSON, and of YAML whose users stand in brackets.
var ErrByHand = errors.New("the file can only be edited by hand")

// WithUser adds a user, whose file need not exist yet, to the text of a
// configuration. It returns the new text, and the Config that it makes, and changes
// no other byte. The error is an Errors if the new text would be wrong. If it is
// ErrByHand, the Config is valid, but there is no text.
func WithUser(file string, data []byte, u User) ([]byte, *Config, error) {
	root, err := parse(file, data)
	if err != nil {
		return nil, nil, err
	}
	key, list := users(root)
	if i, n := findUser(list, u.Name); n != nil {
		d := decoder{name: file}
		return nil, nil, Errors{d.at(n, fmt.Sprintf("users[%d]", i), fmt.Sprintf("there is a user %q already (another name)", u.Name))}
	}
	item, path := userNode(file, u)
	text := insertUser(file, data, root, key, list, item)
	switch {
	case list == nil:
		name := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "users"}
		root.Content = append(root.Content, name, &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{item}})
	case isNull(list):
		*list = yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Anchor: list.Anchor, Line: list.Line, Column: list.Column, Content: []*yaml.Node{item}}
	default:
		list.Content = append(list.Content, item)
	}
	return edited(file, text, root, map[*yaml.Node]User{path: u})
}

// WithoutUser removes a user from the text of a configuration. It returns the new
// text, and the name and file of the user, and changes no other byte. The error is an
// Errors if the new text would be wrong. If it wraps ErrByHand, the User is valid, but
// there is no text.
func WithoutUser(file string, data []byte, name string) ([]byte, User, error) {
	root, err := parse(file, data)
	if err != nil {
		return nil, User{}, err
	}
	key, list := users(root)
	i, item := findUser(list, name)
	if item == nil {
		hint := suggest.DidYouMean(name, userNames(list))
		if hint == "" {
			hint = " (webknock user list)"
		}
		return nil, User{}, fmt.Errorf("%s: there is no user %q%s", file, name, hint)
	}
	u := User{Name: name}
	if n := child(resolve(item), "totp_file"); n != nil {
		u.File = beside(file, resolve(n).Value)
	}
	text := cutUser(file, data, root, key, list, i)
	list.Content = slices.Delete(list.Content, i, i+1)
	if len(list.Content) == 0 {
		*list = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Anchor: list.Anchor, Line: list.Line, Column: list.Column}
	}
	text, _, err = edited(file, text, root, nil)
	if errors.Is(err, ErrByHand) {
		err = fmt.Errorf("%s:%d:%d: users[%d]: %w", file, item.Line, item.Column, i, err)
	}
	return text, u, err
}

// UserLines returns the lines to add to a file by hand for a user.
func UserLines(file string, u User) string {
	item, path := userNode(file, u)
	quoted, _ := json.Marshal(path.Value) // TOML quotes alike
	switch filepath.Ext(file) {
	case ".toml":
		return fmt.Sprintf("[[users]]\nname = %q\ntotp_file = %s\n", u.Name, quoted)
	case ".json":
		return fmt.Sprintf("{\"name\": %q, \"totp_file\": %s}\n", u.Name, quoted)
	}
	return "users:\n  - " + inline(item) + "\n"
}

// edited validates an edit, and returns the new text and the Config that it makes.
// Root is the tree of the old text with the same edit: errors get the places of the
// file as it is. If the new text does not parse to the same tree, it is ErrByHand.
func edited(file string, text []byte, root *yaml.Node, unwritten map[*yaml.Node]User) ([]byte, *Config, error) {
	now, err := parse(file, text)
	kept := text != nil && err == nil && same(now, root)
	cfg, err := decode(file, root, unwritten)
	if err != nil {
		return nil, nil, err
	}
	if !kept {
		return nil, cfg, ErrByHand
	}
	return text, cfg, nil
}

// same reports whether two nodes have the same content, whatever their places and
// styles.
func same(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.ShortTag() == b.ShortTag() && a.Value == b.Value && a.Anchor == b.Anchor &&
		slices.EqualFunc(a.Content, b.Content, same)
}

// users returns the list of users and the index of its key in root's content. If
// there is no list, it returns nil.
func users(root *yaml.Node) (key int, list *yaml.Node) {
	for i := 0; i+1 < len(root.Content) && root.Kind == yaml.MappingNode; i += 2 {
		if root.Content[i].Value == "users" {
			return i, resolve(root.Content[i+1])
		}
	}
	return 0, nil
}

// findUser returns the index and the node of a user. If the list has no such user, the
// node is nil.
func findUser(list *yaml.Node, name string) (int, *yaml.Node) {
	if list == nil {
		return 0, nil
	}
	for i, item := range list.Content {
		if n := child(resolve(item), "name"); n != nil && resolve(n).Value == name {
			return i, item
		}
	}
	return 0, nil
}

func userNames(list *yaml.Node) (names []string) {
	if list == nil {
		return nil
	}
	for _, item := range list.Content {
		if n := child(resolve(item), "name"); n != nil {
			names = append(names, resolve(n).Value)
		}
	}
	return names
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// userNode returns the node of a user, and inside of it the node with the path of the
// user's file.
func userNode(file string, u User) (item, path *yaml.Node) {
	text := func(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }
	path = text(u.File)
	if filepath.Dir(u.File) == filepath.Dir(file) {
		path.Value = filepath.Base(u.File)
	}
	return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle,
		Content: []*yaml.Node{text("name"), text(u.Name), text("totp_file"), path}}, path
}

// inline returns a node in brackets on one line.
func inline(n *yaml.Node) string {
	text, _ := yaml.Marshal(n) // fails for no node that userNode makes
	return strings.TrimSpace(string(text))
}

// insertUser returns the text with an item after the last user, or nil if it cannot
// edit the text. The caller checks the result.
func insertUser(file string, data []byte, root *yaml.Node, key int, list, item *yaml.Node) []byte {
	if !isBlock(file, root) {
		return nil
	}
	lines := splitLines(data)
	indent := strings.Repeat(" ", root.Column-1)
	switch {
	case list == nil:
		added := []string{indent + "users:", indent + "  - " + inline(item)}
		if n := len(lines); n > 0 && len(bytes.TrimSpace(lines[n-1])) > 0 {
			added = append([]string{""}, added...)
		}
		return splice(lines, len(lines), len(lines), added...)
	case isNull(list) && list.Value == "":
		at := root.Content[key].Line
		return splice(lines, at, at, indent+"  - "+inline(item))
	case list.Kind == yaml.SequenceNode && list.Style&yaml.FlowStyle == 0 && len(list.Content) > 0:
		dash := dashOf(lines, list, 0)
		if dash >= len(lines) {
			return nil
		}
		at, indent := endOfValue(lines, root, key), len(lines[dash])-len(bytes.TrimLeft(lines[dash], " "))
		return splice(lines, at, at, strings.Repeat(" ", indent)+"- "+inline(item))
	}
	return nil
}

// cutUser returns the text without an item of the list of users, or nil if it cannot
// edit the text. The caller checks the result.
func cutUser(file string, data []byte, root *yaml.Node, key int, list *yaml.Node, i int) []byte {
	if !isBlock(file, root) || list.Kind != yaml.SequenceNode || list.Style&yaml.FlowStyle != 0 {
		return nil
	}
	lines := splitLines(data)
	from := dashOf(lines, list, i)
	to := endOfValue(lines, root, key)
	if i+1 < len(list.Content) {
		to = trimBlank(lines, from, dashOf(lines, list, i+1))
	}
	return splice(lines, from, to)
}

// isBlock reports whether a file is YAML whose top mapping is not in brackets.
func isBlock(file string, root *yaml.Node) bool {
	return filepath.Ext(file) != ".toml" && root.Kind == yaml.MappingNode && root.Style&yaml.FlowStyle == 0
}

// dashOf returns the index of the line with the dash of an item, which may be above the line on
// which the item begins.
func dashOf(lines [][]byte, list *yaml.Node, i int) int {
	at := list.Content[i].Line - 1
	for ; at > list.Line-1; at-- {
		if at < len(lines) && bytes.HasPrefix(bytes.TrimLeft(lines[at], " "), []byte("-")) {
			break
		}
	}
	return at
}

// endOfValue returns the index of the line after a value of a mapping. Comments and
// empty lines before the next key do not belong to the value.
func endOfValue(lines [][]byte, mapping *yaml.Node, key int) int {
	end := len(lines)
	if next := key + 2; next < len(mapping.Content) {
		end = mapping.Content[next].Line - 1
	}
	return trimBlank(lines, mapping.Content[key].Line, end)
}

// trimBlank moves the index to up over comments and empty lines, but not beyond from.
func trimBlank(lines [][]byte, from, to int) int {
	for ; to > from && to <= len(lines); to-- {
		if line := bytes.TrimSpace(lines[to-1]); len(line) > 0 && line[0] != '#' {
			break
		}
	}
	return to
}

// splitLines splits a text after each line break.
func splitLines(data []byte) [][]byte {
	lines := bytes.SplitAfter(data, []byte("\n"))
	if n := len(lines); len(lines[n-1]) == 0 {
		lines = lines[:n-1]
	}
	return lines
}

// splice replaces the lines between two indices by new ones, which get the line break
// of the file. It returns nil if there are no such lines.
func splice(lines [][]byte, from, to int, added ...string) []byte {
	if from < 0 || from > to || to > len(lines) {
		return nil
	}
	eol := "\n"
	if len(lines) > 0 && bytes.HasSuffix(lines[0], []byte("\r\n")) {
		eol = "\r\n"
	}
	text := bytes.Join(lines[:from], nil)
	if len(added) > 0 && len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, eol...)
	}
	for _, line := range added {
		text = append(text, line+eol...)
	}
	return append(text, bytes.Join(lines[to:], nil)...)
}
