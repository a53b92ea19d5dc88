package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
)

// Command is a program that a sequence runs.
type Command struct {
	On          string              `mapstructure:"on" words:"open close complete" required:"open, close or complete"`
	Argv        []string            `mapstructure:"command" required:"a program and its arguments, like [/usr/local/bin/hello, --fast]"` // no shell; the first is an absolute path
	User        string              `mapstructure:"user" is:"user"`                                                                      // whom it runs as; empty: as the daemon does
	Credential  *syscall.Credential `mapstructure:"-"`                                                                                   // of User
	Timeout     time.Duration       `mapstructure:"timeout" limits:"1s..24h"`
	Environment variables           `mapstructure:"environment"`
}

func (c *Command) setDefaults() { *c = Command{Timeout: 30 * time.Second} }

// When a command is run.
const (
	OnOpen     = "open"     // the sequence has opened a new grant
	OnClose    = "close"    // a grant that the sequence opened has ended
	OnComplete = "complete" // the sequence has been completed
)

// validateCommands returns the commands that can run: Restore leaves out those
// whose user does not exist, and never runs them as the daemon instead.
func (d *decoder) validateCommands(key string, all []Command) (usable []Command) {
	for i := range all {
		c := &all[i]
		c.validate(d, fmt.Sprintf("%s[%d]", key, i))
		if c.User != "" && c.Credential == nil && d.kept != nil {
			continue
		}
		usable = append(usable, *c)
	}
	return usable
}

func (c *Command) validate(d *decoder, key string) {
	if c.User != "" {
		var err error
		if c.Credential, err = credential(c.User); err != nil {
			d.lackAt(key+".user", "%v (a user of this system)", err)
		}
	}
	at := key + ".command"
	switch {
	case d.keys[key].at("command") == nil || d.wrong(at):
	case len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0]):
		d.errorAt(at, "does not begin with an absolute path (a program and its arguments, like [/usr/local/bin/hello, --fast])")
	case slices.ContainsFunc(c.Argv, hasNUL):
		d.errorAt(at, "holds a NUL character (none)")
	default:
		if info, err := os.Stat(c.Argv[0]); err != nil {
			d.warnAt(at, "cannot be run now: %v", err)
		} else if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			d.warnAt(at, "cannot be run now: %s is not executable (chmod +x)", c.Argv[0])
		}
	}
}

// variables is the environment of a command: NAME=value, sorted by name. The
// names keep their case.
type variables []string

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (list *variables) read(d *decoder, v *value) any {
	if v.node.Kind != yaml.MappingNode {
		d.errorf(v.node, v.key, "is not a mapping (write {NAME: value})")
		return nil
	}
	all := map[string]string{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		name, n := v.node.Content[i], v.node.Content[i+1]
		at := &value{key: join(v.key, name.Value), node: n}
		text, ok := d.text(at)
		switch _, twice := all[name.Value]; {
		case !ok:
		case twice:
			d.errorf(name, at.key, "is there twice (remove one)")
		case !variableName.MatchString(name.Value):
			d.errorf(name, at.key, "%q is not a valid name of a variable (letters, digits and _, not starting with a digit)", name.Value)
		case strings.HasPrefix(name.Value, "WEBKNOCK_"):
			d.errorf(name, at.key, "WEBKNOCK_ variables are set by webknock itself (another name)")
		case hasNUL(text):
			d.errorf(n, at.key, "holds a NUL character (none)")
		default:
			all[name.Value] = text
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		*list = append(*list, name+"="+all[name])
	}
	return nil
}

func hasNUL(s string) bool { return strings.ContainsRune(s, 0) }

// credential returns the ids of a user and of all groups of the user.
func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
			return nil, fmt.Errorf("there is no user %q", name)
		}
		return nil, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	ids := make([]uint32, 0, 2+len(groups))
	for _, text := range append([]string{u.Uid, u.Gid}, groups...) {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %q: %w", name, err)
		}
		ids = append(ids, uint32(id))
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}
