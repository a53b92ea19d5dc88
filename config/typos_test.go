package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"webknock/internal/certtest"

	"go.yaml.in/yaml/v3"
)

// everyKey returns the sample configuration with all keys turned on, in a directory
// with the files that it names.
func everyKey(t *testing.T) (file string, text []byte) {
	t.Helper()
	sample, err := os.ReadFile("../docs/webknock.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(off.ReplaceAllString(string(sample), "$1$2"))
	dir := t.TempDir()
	cert, key := certtest.PEM(t, "home.example.org")
	for name, content := range map[string]string{
		"fullchain.pem": string(cert), "key.pem": string(key), "roots.pem": string(cert), "404.html": "not here\n",
		"alice.totp": rfcSecret, "telegram.url": "telegram://123456789:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr@telegram?chats=@channel",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file = filepath.Join(dir, "webknock.yaml")
	if _, err := Parse(file, text); err != nil {
		t.Fatal(err)
	}
	return file, text
}

// visit calls f with each value of a tree, and with its key if it has one.
func visit(n *yaml.Node, path string, f func(key, value *yaml.Node, path string)) {
	for i := 0; i < len(n.Content); i++ {
		if n.Kind == yaml.MappingNode {
			at := path + "." + n.Content[i].Value
			f(n.Content[i], n.Content[i+1], at)
			visit(n.Content[i+1], at, f)
			i++
			continue
		}
		f(nil, n.Content[i], fmt.Sprintf("%s[%d]", path, i))
		visit(n.Content[i], fmt.Sprintf("%s[%d]", path, i), f)
	}
}

// TestOneTypoGivesOneError misspells each key of the sample, and puts something
// impossible in the place of each value, one at a time.
func TestOneTypoGivesOneError(t *testing.T) {
	file, text := everyKey(t)
	root, err := parse(file, text)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	try := func(what string, most int) {
		t.Helper()
		count++
		_, err := decode(file, root, nil)
		var errs Errors
		if !errors.As(err, &errs) || len(errs) > most {
			t.Errorf("%s gives %d errors:\n%v", what, len(errs), err)
			return
		}
		if e := errs[0]; e.Line == 0 || e.Col == 0 || !strings.HasSuffix(e.Msg, ")") && !strings.Contains(e.Msg, ", like ") && !strings.Contains(e.Msg, "starts with /") {
			t.Errorf("%s: the error does not say where, or what would be right: %v", what, err)
		}
	}
	visit(root, "", func(key, value *yaml.Node, path string) {
		if key != nil && !strings.Contains(path, ".environment.") && !strings.Contains(path, ".query.") {
			right := key.Value
			typos := []string{right + right[len(right)-1:], strings.ToUpper(right)}
			if len(right) > 2 {
				typos = append(typos, right[1:], right[:1]+right[2:3]+right[1:2]+right[3:])
			}
			for _, typo := range typos {
				if typo == right {
					continue
				}
				key.Value = typo
				try(path+" as "+typo, 1)
			}
			key.Value = right
		}
		right := *value
		switch {
		case value.Kind == yaml.ScalarNode:
			for _, wrong := range []yaml.Node{
				{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: "x", Line: 1, Column: 1}, {Kind: yaml.ScalarNode, Value: "y"}}},
				{Kind: yaml.SequenceNode, Content: []*yaml.Node{{Kind: yaml.SequenceNode}}},
			} {
				wrong.Line, wrong.Column = right.Line, right.Column
				*value = wrong
				try(path+" as a collection", 1)
			}
		default:
			*value = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "%", Line: right.Line, Column: right.Column}
			try(path+" as a text", 1)
		}
		*value = right
	})
	if _, err := decode(file, root, nil); err != nil {
		t.Errorf("the tree is not what it was: %v", err)
	}
	if count < 300 {
		t.Errorf("only %d typos tried", count)
	}
	t.Logf("%d typos tried", count)
}
