package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"webknock/internal/suggest"
)

// Load reads and validates a configuration file. Its extension says the format:
// .toml, .json, or else YAML. The error is an Errors if the file could be read.
func Load(file string) (*Config, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w (webknock init writes one; another file: --config FILE)", err)
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("read the configuration: %w (as root; or for the daemon's user: chgrp webknock %s; chmod g+r %s)", err, file, file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	cfg, err := Parse(file, data)
	if err != nil {
		return nil, err
	}
	if cfg.Source, err = sourceOf(cfg, data); err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o004 != 0 {
		cfg.Warnings = append(cfg.Warnings, Error{File: file, Msg: "everybody may read it, and the paths in it are secrets (chmod o-r)"})
	}
	cfg.Warnings = append(append(cfg.Warnings, unreadable(cfg)...), misspelt(os.Environ())...)
	return cfg, nil
}

// Parse validates the text of a configuration. The name of its file says the
// format, and relative paths in it are relative to the directory of the file.
func Parse(file string, data []byte) (*Config, error) {
	root, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	return decode(file, root, nil)
}

// parse returns the top mapping of a file. Aliases are not written out yet.
func parse(file string, data []byte) (*yaml.Node, error) {
	if filepath.Ext(file) == ".toml" {
		return parseTOML(file, data)
	}
	return parseYAML(file, data)
}

// decode validates the tree of a file under the environment of this process. The
// files of unwritten users need not exist yet: the key is the node with the path.
func decode(file string, root *yaml.Node, unwritten map[*yaml.Node]User) (*Config, error) {
	values, err := environment()
	if err != nil {
		return nil, err
	}
	return (&decoder{name: file, unwritten: unwritten}).decode(root, values)
}

// decode validates the tree of a file. The values of environment, by key, override
// those of the file.
func (d *decoder) decode(root *yaml.Node, environment map[string]string) (*Config, error) {
	d.places, d.keys = map[string]*yaml.Node{}, map[string]keys{}
	e := expander{decoder: d}
	if root = e.expand(root); len(d.errs) > 0 {
		return nil, d.sorted()
	}
	doc, err := d.merge(root, environment)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err) // a mistake of this package: the hook lets nothing wrong through
	}
	cfg := doc.validate(d)
	if len(d.errs) > 0 {
		return nil, d.sorted()
	}
	d.warnings.sort()
	cfg.File, cfg.Warnings, cfg.files = d.name, d.warnings, d.files
	return cfg, nil
}

// merge puts together the defaults, the file and the environment, each over the
// one before, and decodes the result.
func (d *decoder) merge(root *yaml.Node, environment map[string]string) (*document, error) {
	v := viper.New()
	for _, s := range settings() {
		v.SetDefault(s.key, s.defaultValue)
	}
	d.overridden = environment
	if err := v.MergeConfigMap(d.sections(&value{node: root}, document{})); err != nil {
		return nil, err
	}
	for key, text := range environment {
		n := &yaml.Node{Kind: yaml.ScalarNode, Tag: envTag, Value: text, HeadComment: variable(key)}
		d.places[key] = n
		v.Set(key, &value{key: key, node: n, tag: tagOf(key)})
	}
	doc := new(document)
	return doc, v.UnmarshalExact(doc, func(c *mapstructure.DecoderConfig) {
		c.DecodeHook = mapstructure.DecodeHookFuncValue(d.hook)
		c.WeaklyTypedInput = false
		c.MatchName = func(key, field string) bool { return key == field }
	})
}

// environment returns the values that variables WEBKNOCK_… give to settings, by
// key. A variable that is empty gives none.
func environment() (map[string]string, error) {
	v := viper.New()
	v.SetEnvPrefix("WEBKNOCK")
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(nil)); err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, s := range settings() {
		if err := v.BindEnv(s.key); err != nil {
			return nil, err
		}
		if v.IsSet(s.key) {
			values[s.key] = v.GetString(s.key)
		}
	}
	return values, nil
}

// variable returns the name of the variable that overrides a setting.
func variable(key string) string {
	return "WEBKNOCK_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// misspelt warns of variables whose name is nearly that of one of webknock's.
// Such a variable changes nothing.
func misspelt(environ []string) (warnings Errors) {
	known := []string{"WEBKNOCK_CONFIG", "WEBKNOCK_SOCKET", "WEBKNOCK_STATE", "WEBKNOCK_CONFIRM", "WEBKNOCK_PASSPHRASE", "WEBKNOCK_BOOT_ID"}
	for _, s := range settings() {
		known = append(known, variable(s.key))
	}
	slices.Sort(known)
	for _, line := range environ {
		name, _, _ := strings.Cut(line, "=")
		if !strings.HasPrefix(name, "WEBKNOCK") || slices.Contains(known, name) {
			continue
		}
		if best := suggest.Closest(name, known); best != "" {
			warnings = append(warnings, Error{File: name, Msg: "is not a variable of webknock and changes nothing (did you mean " + best + "?)"})
		}
	}
	return warnings
}
