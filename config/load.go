package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"webknock/firewall"
	"webknock/internal/notice"
	"webknock/internal/suggest"
)

// overrides are the scalars that a variable WEBKNOCK_… may set, with their
// defaults. Scalars in lists have none.
var overrides = map[string]string{
	"clients.max":         "65536",
	"clients.ipv4_prefix": "32",
	"clients.ipv6_prefix": "128",
	"firewall.backend":    BackendNFTables,
	"firewall.mode":       "guard",
	"firewall.table":      "webknock",
	"firewall.mark":       "0x40000000",
	"firewall.owner":      "false",
	"admin.socket":        "/run/webknock/webknock.sock",
	"log.level":           "info",
	"log.format":          "auto",
	"state":               "/var/lib/webknock",
}

// Load reads and validates a configuration file: YAML, or TOML or JSON by its
// extension. What is wrong with it is an Errors.
func Load(file string) (*Config, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w (write one, or name it with --config)", err)
	}
	data, err := os.ReadFile(file)
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

// misspelt warns of variables of an environment that are nearly overrides, and
// change nothing.
func misspelt(environ []string) (warnings Errors) {
	known := []string{"WEBKNOCK_CONFIG", "WEBKNOCK_SOCKET", "WEBKNOCK_STATE", "WEBKNOCK_CONFIRM", "WEBKNOCK_PASSPHRASE"}
	for key := range overrides {
		known = append(known, variable(key))
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

// variable returns the name of the variable that overrides a key.
func variable(key string) string {
	return "WEBKNOCK_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Parse validates a configuration; the name of its file tells its format.
func Parse(file string, data []byte) (*Config, error) {
	root, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	return decode(file, root, nil)
}

// decode validates the tree of a configuration, in which users may be new, with
// a file that is not written yet.
func decode(file string, root *yaml.Node, unwritten map[*yaml.Node]User) (*Config, error) {
	values, err := environment()
	if err != nil {
		return nil, err
	}
	return (&decoder{name: file, unwritten: unwritten}).decode(root, values)
}

// decode validates a tree, over whose scalars those of the environment go.
func (d *decoder) decode(root *yaml.Node, environment map[string]string) (*Config, error) {
	d.places = map[string]*yaml.Node{}
	e := expander{decoder: d}
	if root = e.expand(root); len(d.errs) > 0 {
		return nil, d.sorted()
	}
	override(root, environment)
	cfg := d.config(root)
	if len(d.errs) > 0 {
		return nil, d.sorted()
	}
	d.warnings.sort()
	cfg.File, cfg.Warnings, cfg.files = d.name, d.warnings, d.files
	return cfg, nil
}

// parse returns the top mapping of a file, with its aliases.
func parse(file string, data []byte) (*yaml.Node, error) {
	if filepath.Ext(file) == ".toml" {
		return parseTOML(file, data)
	}
	return parseYAML(file, data)
}

// environment returns the values of the overrides that viper finds, by key.
func environment() (map[string]string, error) {
	v := viper.New()
	v.SetEnvPrefix("WEBKNOCK")
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(nil)); err != nil {
		return nil, err
	}
	values := map[string]string{}
	for key := range overrides {
		if err := v.BindEnv(key); err != nil {
			return nil, err
		}
		if v.IsSet(key) {
			values[key] = v.GetString(key)
		}
	}
	return values, nil
}

// override sets scalars of the environment, by key.
func override(root *yaml.Node, values map[string]string) {
	for key, value := range values {
		set(root, strings.Split(key, "."), &yaml.Node{Kind: yaml.ScalarNode, Tag: envTag, Value: value, HeadComment: variable(key)})
	}
}

// set puts a value at a path of mappings, over what is there.
func set(n *yaml.Node, path []string, value *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return // reported when it is decoded
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != path[0] {
			continue
		}
		if len(path) == 1 {
			n.Content[i+1] = value
		} else {
			set(n.Content[i+1], path[1:], value)
		}
		return
	}
	if len(path) > 1 {
		inner := &yaml.Node{Kind: yaml.MappingNode, Line: n.Line, Column: n.Column}
		set(inner, path[1:], value)
		value = inner
	}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: path[0], Line: n.Line, Column: n.Column}, value)
}

var name = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// NameRule says what a name is.
const NameRule = "1 to 32 of a-z 0-9 _ -, starting with a letter"

// IsName reports whether s may name a door, a sequence or a user.
func IsName(s string) bool { return name.MatchString(s) }

// need reports a key that is missing, and what would be right. If it seems to be
// there, misspelt, that has been reported.
func (d *decoder) need(n *yaml.Node, key string, there keys, wanted, right string) bool {
	if there.known && !there.has(wanted) {
		d.errorf(n, strings.TrimPrefix(key+"."+wanted, "."), "is missing (%s)", right)
	}
	return there.at(wanted) != nil
}

func (d *decoder) config(root *yaml.Node) *Config {
	cfg := &Config{
		Clients: Clients{Max: 65536, IPv4Prefix: 32, IPv6Prefix: 128},
		Firewall: Firewall{Backend: overrides["firewall.backend"], Table: overrides["firewall.table"],
			Guard: firewall.Guard{Mark: 0x40000000}},
		Shield: Shield{Rate: 20, Per: time.Second, Ban: Ban{Within: time.Minute, For: 10 * time.Minute}},
		Admin:  Admin{Socket: overrides["admin.socket"]},
		Log:    Log{Format: overrides["log.format"]},
		State:  overrides["state"],
	}
	var sequences func() // once all doors and users are known
	doors, users := newNames("door", "doors"), newNames("user", "users")
	there := d.mapping(root, "", fields{
		"listeners": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) { d.listener(n, key, cfg) })
		},
		"clients": func(n *yaml.Node, key string) {
			d.mapping(n, key, fields{
				"max":         d.integer(&cfg.Clients.Max, 1, 100_000_000),
				"ipv4_prefix": d.integer(&cfg.Clients.IPv4Prefix, 8, 32),
				"ipv6_prefix": d.integer(&cfg.Clients.IPv6Prefix, 1, 128),
			})
		},
		"doors": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				d.door(n, key, cfg, doors)
			})
		},
		"sequences": func(n *yaml.Node, key string) {
			sequences = func() {
				seen := newNames("sequence", "sequences")
				d.list(n, key, func(n *yaml.Node, key string) { d.sequence(n, key, cfg, doors, users, seen) })
			}
		},
		"users": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) { d.user(n, key, cfg, users) })
		},
		"firewall": func(n *yaml.Node, key string) {
			mode := ""
			d.mapping(n, key, fields{
				"backend": d.oneOf(&cfg.Firewall.Backend, BackendNFTables, BackendMemory),
				"mode": func(n *yaml.Node, key string) {
					d.oneOf(&mode, "guard", "sets")(n, key)
					if mode == "sets" {
						cfg.Firewall.Guard.Mode = firewall.Sets
					}
				},
				"table": func(n *yaml.Node, key string) {
					d.str(&cfg.Firewall.Table)(n, key)
					if !tableName.MatchString(cfg.Firewall.Table) {
						d.errorf(n, key, "%q is not a valid name of a table (1 to 64 letters, digits, _, starting with a letter)", cfg.Firewall.Table)
					}
				},
				"mark":  d.mark(&cfg.Firewall.Guard.Mark),
				"owner": d.boolean(&cfg.Firewall.Guard.Owner),
				"allow": func(n *yaml.Node, key string) {
					d.list(n, key, func(n *yaml.Node, key string) {
						if p, ok := d.network(n, key); ok {
							cfg.Firewall.Guard.Allow = append(cfg.Firewall.Guard.Allow, p)
						}
					})
				},
			})
		},
		"shield": func(n *yaml.Node, key string) { d.shield(n, key, cfg) },
		"admin": func(n *yaml.Node, key string) {
			d.mapping(n, key, fields{"socket": d.socketPath(&cfg.Admin.Socket), "metrics": d.notYet})
		},
		"log": func(n *yaml.Node, key string) {
			level := "info"
			d.mapping(n, key, fields{
				"level":  d.oneOf(&level, "debug", "info", "warn", "error"),
				"format": d.oneOf(&cfg.Log.Format, "auto", "text", "journal", "json"),
			})
			cfg.Log.Level.UnmarshalText([]byte(level)) // one of slog's own words
		},
		"state":  d.path(&cfg.State),
		"notify": d.targets(&cfg.Notify, ofAll, notice.Repair, notice.Degraded),
	})
	doors.incomplete = doors.incomplete || there.meant["doors"] || d.wrongHere("doors")
	users.incomplete = users.incomplete || there.meant["users"] || d.wrongHere("users")
	if sequences != nil {
		sequences()
	}
	d.need(root, "", there, "listeners", `at least one, like - address: ":8080"`)
	d.need(root, "", there, "sequences", "at least one, with name, steps and opens")
	for key, count := range map[string]int{"listeners": len(cfg.Listeners), "sequences": len(cfg.Sequences)} {
		if there.at(key) != nil && count == 0 && !d.wrong(key) {
			d.errorAt(key, "is empty (at least one)")
		}
	}
	cfg.Firewall.Guard.Doors = cfg.Doors
	d.judge(cfg)
	return cfg
}

// names is the names of a section, which others refer to.
type names struct {
	what, section string
	all           []string
	incomplete    bool // something there has no name, for an error that has been reported
}

func newNames(what, section string) *names { return &names{what: what, section: section} }

// named reads a name, which nothing else in the section may have. A name that is
// not valid is known all the same, so that what refers to it is no error more.
func (d *decoder) named(to *string, seen *names) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		switch {
		case !ok:
		case !IsName(s):
			d.errorf(n, key, "%q is not a valid name (%s)", s, NameRule)
		case slices.Contains(seen.all, s):
			d.errorf(n, key, "there is another %s %q (give each a name of its own)", seen.what, s)
		}
		seen.all = append(seen.all, s)
		*to = s
	}
}

// reference reads a list of names of another section, each once.
func (d *decoder) reference(to *[]string, known *names, taken func() []string, once string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		d.list(n, key, func(n *yaml.Node, key string) {
			name, ok := d.text(n, key)
			switch {
			case !ok:
			case !slices.Contains(known.all, name):
				if !known.incomplete {
					d.errorf(n, key, "there is no %s %q (%s)", known.what, name, known.suggest(name))
				}
			case slices.Contains(taken(), name):
				d.errorf(n, key, "%s %q is there twice (%s)", known.what, name, once)
			}
			*to = append(*to, name)
		})
	}
}

// suggest says what a name that is unknown may stand for.
func (n *names) suggest(name string) string {
	if len(n.all) == 0 {
		return "write it under " + n.section
	}
	return oneOfWords(name, n.all)
}
