package config

import (
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

func (d *decoder) path(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		if s, ok := d.text(n, key); ok && !filepath.IsAbs(s) {
			d.errorf(n, key, "%q is not an absolute path (write one that starts with /)", s)
		} else if ok {
			*to = s
		}
	}
}

// MaxSocketPath is the length that the path of a socket may have, in bytes
// (unix(7)).
const MaxSocketPath = 107

// socketPath is path for a unix socket.
func (d *decoder) socketPath(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		if d.path(to)(n, key); len(*to) > MaxSocketPath {
			d.errorf(n, key, "has %d bytes, and the path of a socket may have %d (a shorter one)", len(*to), MaxSocketPath)
		}
	}
}

// file reads the path of a file that must be there. One that is not absolute is
// beside the configuration.
func (d *decoder) file(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		if !ok {
			return
		}
		s = beside(d.name, s)
		f, err := os.Open(s)
		if err != nil {
			d.lackf(n, key, "cannot be read: %v (a file that webknock may read)", err)
			return
		}
		f.Close()
		d.files = append(d.files, namedFile{s, d.at(n, key, "")})
		*to = s
	}
}

// beside returns a path in a configuration as one for the program: one that is
// not absolute is beside the configuration.
func beside(config, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(config), path)
}

// secretFile is file for one that nobody else may read.
func (d *decoder) secretFile(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		before := len(d.errs)
		d.file(to)(n, key)
		if len(d.errs) > before {
			return
		}
		if info, err := os.Stat(*to); err == nil && info.Mode().Perm()&0o007 != 0 {
			d.lackf(n, key, "everybody may read %s, and it is a secret (chmod o= %s)", *to, *to)
		}
	}
}
