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

// Command is what a sequence runs.
type Command struct {
	On          string              // OnOpen, OnClose or OnComplete
	Argv        []string            // no shell; the first is an absolute path
	User        string              // whom it runs as; empty: as the daemon does
	Credential  *syscall.Credential // of User
	Timeout     time.Duration       // 1 s to 24 h
	Environment []string            // NAME=value, by name
}

// When a command is run.
const (
	OnOpen     = "open"     // a grant is new that the sequence opened
	OnClose    = "close"    // such a grant has ended
	OnComplete = "complete" // the sequence is completed
)

const (
	minTimeout = time.Second
	maxTimeout = 24 * time.Hour
)

func (d *decoder) commands(to *[]Command) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		d.list(n, key, func(n *yaml.Node, key string) {
			c := d.command(n, key)
			if c.User != "" && c.Credential == nil && d.kept != nil {
				return // and never as the daemon instead
			}
			*to = append(*to, c)
		})
	}
}

func (d *decoder) command(n *yaml.Node, key string) Command {
	c := Command{Timeout: 30 * time.Second}
	there := d.mapping(n, key, fields{
		"on": d.oneOf(&c.On, OnOpen, OnClose, OnComplete),
		"command": func(n *yaml.Node, key string) {
			d.strs(&c.Argv)(n, key)
			switch {
			case n.Kind != yaml.SequenceNode || d.wrong(key):
			case len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0]):
				d.errorf(n, key, "does not begin with an absolute path (a program and its arguments, like [/usr/local/bin/hello, --fast])")
			case slices.ContainsFunc(c.Argv, hasNUL):
				d.errorf(n, key, "holds a NUL character (none)")
			default:
				if info, err := os.Stat(c.Argv[0]); err != nil {
					d.warnf(n, key, "cannot be run now: %v", err)
				} else if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
					d.warnf(n, key, "cannot be run now: %s is not executable (chmod +x)", c.Argv[0])
				}
			}
		},
		"user": func(n *yaml.Node, key string) {
			name, ok := d.text(n, key)
			if !ok {
				return
			}
			var err error
			if c.Credential, err = credential(name); err != nil {
				d.lackf(n, key, "%v (a user of this system)", err)
			}
			c.User = name
		},
		"timeout":     d.duration(&c.Timeout, minTimeout, maxTimeout),
		"environment": func(n *yaml.Node, key string) { c.Environment = d.environment(n, key) },
	})
	d.need(n, key, there, "on", "open, close or complete")
	d.need(n, key, there, "command", "a program and its arguments, like [/usr/local/bin/hello, --fast]")
	return c
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment reads a mapping of variables.
func (d *decoder) environment(n *yaml.Node, key string) []string {
	all := map[string]string{}
	if n.Kind != yaml.MappingNode {
		d.errorf(n, key, "is not a mapping (write {NAME: value})")
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, key := n.Content[i].Value, key+"."+n.Content[i].Value
		value, ok := d.text(n.Content[i+1], key)
		switch _, twice := all[name]; {
		case !ok:
		case twice:
			d.errorf(n.Content[i], key, "is there twice (once)")
		case !variableName.MatchString(name):
			d.errorf(n.Content[i], key, "%q is not a valid name of a variable (letters, digits and _, not starting with a digit)", name)
		case strings.HasPrefix(name, "WEBKNOCK_"):
			d.errorf(n.Content[i], key, "WEBKNOCK_ variables are set by webknock itself (another name)")
		case hasNUL(value):
			d.errorf(n.Content[i+1], key, "holds a NUL character (none)")
		default:
			all[name] = value
		}
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, name+"="+all[name])
	}
	return list
}

func hasNUL(s string) bool { return strings.ContainsRune(s, 0) }

// credential returns the ids of a user and of all groups he is in.
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
