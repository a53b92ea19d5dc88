package main

import (
	"encoding/json"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheManualHasAllCommandsAndFlags(t *testing.T) {
	page := read(t, "../../docs/man/webknock.8")
	root := newRoot(io.Discard, io.Discard, false)
	flags := func(c *cobra.Command) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(page, "Fl -"+f.Name) {
				t.Errorf("%s: no flag --%s", c.CommandPath(), f.Name)
			}
		})
	}
	flags(root)
	var walk func(c *cobra.Command, path string)
	walk = func(c *cobra.Command, path string) {
		if c.Hidden {
			return
		}
		if !regexp.MustCompile(`(?m)^\.It Cm ` + path + `\b`).MatchString(page) {
			t.Errorf("no command %s", path)
		}
		if c.Name() == "completion" {
			return
		}
		flags(c)
		for _, inner := range c.Commands() {
			walk(inner, path+" "+inner.Name())
		}
	}
	for _, c := range root.Commands() {
		walk(c, c.Name())
	}
}

// The keys are those of the schema, which has those of the loader.
func TestTheManualHasAllKeys(t *testing.T) {
	page := read(t, "../../docs/man/webknock.yaml.5")
	table := read(t, "../../docs/configuration.md")
	var schema any
	if err := json.Unmarshal([]byte(read(t, "../../docs/webknock.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(s any) {
		switch s := s.(type) {
		case []any:
			for _, inner := range s {
				walk(inner)
			}
		case map[string]any:
			if properties, ok := s["properties"].(map[string]any); ok {
				for key := range properties {
					word := regexp.MustCompile(`\b` + key + `\b`)
					if !word.MatchString(page) {
						t.Errorf("webknock.yaml(5) has no key %s", key)
					}
					if !word.MatchString(table) {
						t.Errorf("configuration.md has no key %s", key)
					}
				}
			}
			for _, inner := range s {
				walk(inner)
			}
		}
	}
	walk(schema)
}

func TestTheDocumentHasTheJSONOfAllCommands(t *testing.T) {
	page := read(t, "../../docs/cli.md")
	var walk func(c *cobra.Command, path string)
	walk = func(c *cobra.Command, path string) {
		if c.Name() == "completion" || c.Name() == "help" || c.Name() == "serve" || c.Hidden {
			return
		}
		if c.Runnable() && !strings.Contains(page, "\n| `"+path+"` | ") && len(c.Commands()) == 0 {
			t.Errorf("cli.md has no JSON of %s", path)
		}
		for _, inner := range c.Commands() {
			walk(inner, path+" "+inner.Name())
		}
	}
	for _, c := range newRoot(io.Discard, io.Discard, false).Commands() {
		walk(c, c.Name())
	}
	for _, shape := range []any{problem{}, detail{}, checked{}, reloaded{}, guarded{}, addedUser{}, removedUser{}, listedUser{}, hashedPath{}, result{}} {
		typ := reflect.TypeOf(shape)
		for i := range typ.NumField() {
			key, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(page, `"`+key+`"`) {
				t.Errorf("cli.md has no field %s of %s", key, typ)
			}
		}
	}
}
