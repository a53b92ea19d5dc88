package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ProfileDir returns the folder of the user's profiles.
func ProfileDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the folder of profiles: %w (name a profile by the path of its file)", err)
	}
	return filepath.Join(dir, "webknock", "profiles"), nil
}

var profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ProfilePath returns the file of a profile. What holds a slash (or a backslash
// on Windows) or ends in .yaml is the path of a file.
func ProfilePath(profile string) (string, error) {
	if strings.ContainsRune(profile, '/') || strings.ContainsRune(profile, filepath.Separator) || strings.HasSuffix(profile, ".yaml") {
		return profile, nil
	}
	if !profileName.MatchString(profile) {
		return "", fmt.Errorf("%q is not a valid name of a profile (1 to 64 of A–Z a–z 0–9 . _ -, starting with a letter or digit)", profile)
	}
	dir, err := ProfileDir()
	return filepath.Join(dir, profile+".yaml"), err
}

// Load reads a profile by its name or the path of its file. A file that others
// than its owner may read is refused, since it holds secrets.
func Load(profile string) (*Profile, error) {
	path, err := ProfilePath(profile)
	if err != nil {
		return nil, err
	}
	data, err := readPrivate(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no profile %s (webknock profile list shows them; webknock profile add makes one)", profile)
	}
	if err != nil {
		return nil, err
	}
	p, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	p.Name = strings.TrimSuffix(filepath.Base(path), ".yaml")
	return p, nil
}

const maxFile = 1 << 20 // bytes of a profile or a secret

// readPrivate reads a file that nobody but its owner may read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder (name a profile, or the path of its file)", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s can be read by others, and it holds secrets (chmod 600 %s)", path, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}

// NewStep returns a step of a draft.
func NewStep(s Step) step { return step(s) }

// Text writes a draft as a file.
func (d Draft) Text() ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(d); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// Save keeps a profile under a name, mode 0600, if its text is valid. It
// refuses to replace one unless told to. Relative paths in the text count from
// the folder of profiles.
func Save(name string, text []byte, replace bool) (path string, err error) {
	if !profileName.MatchString(name) || strings.HasSuffix(name, ".yaml") {
		return "", fmt.Errorf("%q is not a valid name of a profile (1 to 64 of A–Z a–z 0–9 . _ -, starting with a letter or digit)", name)
	}
	if path, err = ProfilePath(name); err != nil {
		return "", err
	}
	if _, err := Parse(path, text); err != nil {
		return "", err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if !replace {
		if _, err := os.Lstat(path); err == nil {
			return "", fmt.Errorf("there is a profile %s already (webknock profile remove %s, or --replace)", name, name)
		}
	}
	f, err := os.CreateTemp(dir, "."+name+"-") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return path, err
}

// List returns the names of the user's profiles, in order.
func List() (names []string, err error) {
	dir, err := ProfileDir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok && profileName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Remove deletes a profile.
func Remove(name string) error {
	if !profileName.MatchString(name) || strings.HasSuffix(name, ".yaml") {
		return fmt.Errorf("%q is not a valid name of a profile", name)
	}
	path, err := ProfilePath(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no profile %s (webknock profile list shows them)", name)
	} else if err != nil {
		return err
	}
	return nil
}
