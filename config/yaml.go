package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parseYAML returns the top mapping of a YAML or JSON file, which may hold one document
// only.
func parseYAML(file string, data []byte) (*yaml.Node, error) {
	var doc, more yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	err := decoder.Decode(&doc)
	if err == nil {
		switch err = decoder.Decode(&more); {
		case err == nil:
			return nil, Errors{{File: file, Line: max(1, more.Line), Col: max(1, more.Column),
				Msg: "a second document begins here, and only the first would be read (write one document per file: remove the ---, or what follows it)"}}
		case errors.Is(err, io.EOF):
			err = nil
		}
	} else if errors.Is(err, io.EOF) { // only comments
		err = nil
	}
	if err != nil {
		return nil, Errors{syntaxError(file, data, err)}
	}
	if len(doc.Content) == 0 {
		return &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}, nil
	}
	return doc.Content[0], nil
}

// maxNodes limits the size of a tree whose aliases are written out: a small file with
// nested aliases could become a huge tree.
const maxNodes = 1_000_000

// An expander writes out the aliases of a file.
type expander struct {
	*decoder
	open  []*yaml.Node // nodes that are being written out; an alias inside must not refer to them
	nodes int          // written out so far
	full  bool         // there are more than maxNodes
}

// expand returns the tree below n with aliases and merge keys replaced by what they
// refer to. Lists and mappings are copies. Scalars are the same nodes as in n.
func (e *expander) expand(n *yaml.Node) *yaml.Node {
	if e.nodes++; e.nodes > maxNodes {
		if !e.full {
			e.errorf(n, "", "the aliases of this file make more than %d values of it (fewer)", maxNodes)
		}
		e.full = true
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: n.Line, Column: n.Column}
	}
	switch {
	case n.Kind == yaml.AliasNode && slices.Contains(e.open, n.Alias):
		e.errorf(n, "", "*%s stands inside &%s, so that it would have no end (refer to something outside)", n.Value, n.Value)
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: n.Line, Column: n.Column}
	case n.Kind == yaml.AliasNode:
		return e.expand(n.Alias)
	case n.Kind == yaml.ScalarNode:
		return n
	}
	e.open = append(e.open, n)
	defer func() { e.open = e.open[:len(e.open)-1] }()
	out := &yaml.Node{Kind: n.Kind, Style: n.Style, Tag: n.Tag, Line: n.Line, Column: n.Column}
	var merged []*yaml.Node // mappings of <<, whose keys count unless n has them
	for i := 0; i < len(n.Content); i++ {
		if n.Kind == yaml.MappingNode && i%2 == 0 && n.Content[i].ShortTag() == "!!merge" && i+1 < len(n.Content) {
			merged = append(merged, e.merge(n.Content[i+1])...)
			i++
			continue
		}
		out.Content = append(out.Content, e.expand(n.Content[i]))
	}
	for _, m := range merged {
		for i := 0; i+1 < len(m.Content); i += 2 {
			if child(out, m.Content[i].Value) == nil {
				out.Content = append(out.Content, m.Content[i], m.Content[i+1])
			}
		}
	}
	return out
}

// merge returns the mappings that a merge key << refers to. A key of an earlier one
// counts before that of a later one.
func (e *expander) merge(n *yaml.Node) []*yaml.Node {
	all := []*yaml.Node{e.expand(n)}
	if all[0].Kind == yaml.SequenceNode {
		all = all[0].Content
	}
	for _, m := range all {
		if m.Kind != yaml.MappingNode {
			e.errorf(n, "", "<< takes a mapping, or a list of them (like <<: *defaults)")
			return nil
		}
	}
	return all
}

var (
	yamlLine   = regexp.MustCompile(`^yaml: line (\d+): (.*)`)
	yamlAnchor = regexp.MustCompile(`unknown anchor '([^']*)'`)
	tabbed     = regexp.MustCompile(`^[ -]*\t`)
	noSpace    = regexp.MustCompile(`^[ -]*[a-z0-9_]+:[^ \t\r\n]`)
	bareBraces = regexp.MustCompile(`[^\s"'{,\[(:][{]`)
	quoted     = regexp.MustCompile(`"(\\.|[^"\\])*"|'[^']*'|\s#.*|^#.*`)
)

// syntaxError says in plain words what is wrong with the syntax of a file, and where.
func syntaxError(file string, data []byte, err error) Error {
	e := Error{File: file, Line: 1, Col: 1, Msg: strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Msg = m[2]
	}
	if filepath.Ext(file) == ".json" {
		var value any
		if at := new(json.SyntaxError); errors.As(json.Unmarshal(data, &value), &at) {
			e.Line, e.Col = place(data, max(0, int(at.Offset)-1))
			e.Msg = at.Error() + " (this is not JSON)"
			return e
		}
	}
	if at := slices.IndexFunc(data, func(b byte) bool { return b < ' ' && b != '\t' && b != '\n' && b != '\r' || b == 0x7f }); at >= 0 {
		e.Line, e.Col = place(data, at)
		e.Msg = fmt.Sprintf("there is a control character here, %#02x (only text in UTF-8)", data[at])
		return e
	}
	if at := notUTF8(data); at >= 0 {
		e.Line, e.Col = place(data, at)
		e.Msg = "this is not UTF-8 (save the file in that encoding)"
		return e
	}
	if m := yamlAnchor.FindStringSubmatch(e.Msg); m != nil {
		if at := bytes.Index(data, []byte("*"+m[1])); at >= 0 {
			e.Line, e.Col = place(data, at)
		}
		e.Msg = fmt.Sprintf("*%s refers to nothing (write &%s before a value above it, or quote it to mean a *)", m[1], m[1])
		return e
	}
	lines := splitLines(data)
	e.Line = firstWrong(lines, e.Line)
	if e.Line > len(lines) {
		return e
	}
	line := string(lines[e.Line-1])
	e.Col = 1 + len(line) - len(strings.TrimLeft(line, " \t"))
	for i := e.Line - 1; i >= 0 && i >= e.Line-2; i-- { // the parser may report a tab only in the line after it
		if tab := tabbed.FindString(string(lines[i])); tab != "" {
			e.Line, e.Col = i+1, len(tab)
			e.Msg = "a tab indents this line (spaces only)"
			return e
		}
	}
	bare := quoted.ReplaceAllStringFunc(line, func(s string) string { return strings.Repeat(" ", len(s)) })
	braces := bareBraces.FindStringIndex(bare)
	switch {
	case braces != nil:
		e.Col = braces[1]
		e.Msg = `braces outside quotes begin a mapping (quote what holds them, like "/k/{totp}")`
	case strings.Contains(e.Msg, "found unexpected end of stream"):
		e.Msg = "a quote opens on this line and is not closed (close it, or remove it)"
	case strings.Contains(e.Msg, "',' or ']'"), strings.Contains(e.Msg, "node content") && strings.Count(bare, "[") > strings.Count(bare, "]"):
		e.Msg = "a list in brackets is not closed, or lacks a comma (write [one, two])"
	case strings.Contains(e.Msg, "',' or '}'"), strings.Contains(e.Msg, "node content") && strings.Count(bare, "{") > strings.Count(bare, "}"):
		e.Msg = "a mapping in braces is not closed, or lacks a comma (write {one: 1, two: 2})"
	case strings.Contains(e.Msg, "mapping values are not allowed"):
		e.Msg = `a colon stands where no key can be (indent this line like those it belongs to, one key a line, and quote text that holds ": ")`
	case strings.Contains(e.Msg, "found character that cannot start any token"):
		e.Msg = "a value cannot begin with @, ` or % (quote it)"
	case strings.Contains(e.Msg, "alphabetic or numeric"):
		e.Msg = "a * or & begins a reference (quote a value that begins with one)"
	case strings.Contains(e.Msg, "node content"):
		e.Msg = "a bracket stands where none can be (quote a value that begins with [ or {)"
	case noSpace.MatchString(bare):
		e.Msg = "a space is missing after the colon (write key: value)"
	case strings.Contains(e.Msg, "escape"):
		e.Msg = `a \ in double quotes stands before something unknown (write \\, or use single quotes)`
	case strings.Contains(e.Msg, "did not find expected key"), strings.Contains(e.Msg, "'-' indicator"),
		strings.Contains(e.Msg, "could not find expected ':'"), strings.Contains(e.Msg, "are not allowed in this context"):
		e.Msg = "this line fits neither the one before it nor its indentation (keys that belong together begin in the same column, each is followed by a colon and a space, and each item of a list begins with a dash)"
	default:
		e.Msg += " (this is not YAML)"
	}
	return e
}

// place returns the line and column of a byte.
func place(data []byte, at int) (line, col int) {
	before := data[:at]
	return 1 + bytes.Count(before, []byte("\n")), at - bytes.LastIndexByte(before, '\n')
}

// notUTF8 returns the index of the first byte that is not of UTF-8, or -1.
func notUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return -1
}

// firstWrong returns the first line that cannot be YAML: the lines before it are valid
// by themselves. The parser itself only says where the list or mapping begins in which
// it stopped. Long files get that line.
func firstWrong(lines [][]byte, told int) int {
	const long = 1000 // lines
	if len(lines) > long {
		return told
	}
	for n := len(lines) - 1; n >= 0; n-- {
		var doc yaml.Node
		if yaml.Unmarshal(bytes.Join(lines[:n], nil), &doc) == nil {
			return n + 1
		}
	}
	return told
}
