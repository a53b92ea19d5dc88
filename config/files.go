package config

import (
	"os"
	"path/filepath"
)

// absolutePath reads the path of something that need not exist.
func (d *decoder) absolutePath(v *value, s string) any {
	if !filepath.IsAbs(s) {
		d.errorf(v.node, v.key, "%q is not an absolute path (write one that starts with /)", s)
		return nil
	}
	return s
}

// MaxSocketPath is the length that the path of a socket may have, in bytes
// (unix(7)).
const MaxSocketPath = 107

func (d *decoder) socketPath(v *value, s string) any {
	if len(s) > MaxSocketPath {
		d.errorf(v.node, v.key, "has %d bytes, and the path of a socket may have %d (use a shorter one)", len(s), MaxSocketPath)
		return nil
	}
	return d.absolutePath(v, s)
}

// file reads the path of a file that must exist, and makes it one for this
// process.
func (d *decoder) file(v *value, s string) any {
	path := beside(d.name, s)
	f, err := os.Open(path)
	if err != nil {
		d.lackf(v.node, v.key, "cannot be read: %v (a file that webknock may read)", err)
		return nil
	}
	f.Close()
	d.files = append(d.files, namedFile{path, d.at(v.node, v.key, "")})
	return path
}

// beside returns a path in a configuration as one for this process: a relative
// path is relative to the directory of the configuration.
func beside(config, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(config), path)
}

// secretFile is file for one that not everybody may read.
func (d *decoder) secretFile(v *value, s string) any {
	path, ok := d.file(v, s).(string)
	if !ok {
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		d.lackf(v.node, v.key, "everybody may read %s, and it is a secret (chmod o= %s)", path, path)
	}
	return path
}

// certificateFile and certificateKey read the paths of a certificate and its key.
// Restore does without the files if it has to; see keptCertificate.
func (d *decoder) certificateFile(v *value, s string) any {
	if d.kept != nil {
		return beside(d.name, s)
	}
	return d.file(v, s)
}

func (d *decoder) certificateKey(v *value, s string) any {
	if d.kept != nil {
		return beside(d.name, s)
	}
	return d.secretFile(v, s)
}

// userSecretFile is secretFile, but takes the file of a user that is about to be
// added on trust.
func (d *decoder) userSecretFile(v *value, s string) any {
	if u, ok := d.unwritten[v.node]; ok {
		return u.File
	}
	return d.secretFile(v, s)
}
