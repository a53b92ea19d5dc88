package config

import (
	"bytes"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// User is a named secret behind one-time steps.
type User struct {
	Name   string `mapstructure:"name" is:"name" required:"like alice"`
	File   string `mapstructure:"totp_file" is:"user secret" required:"the file with the secret, as webknock user add NAME makes it"`
	Secret Secret `mapstructure:"-"` // content of File
}

// Secret is the key of a user's one-time codes, 16 to 64 bytes. Code that prints,
// logs or marshals it gets a placeholder.
type Secret []byte

const hiddenSecret = "[secret]"

// Format writes a placeholder, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, hiddenSecret) }

// MarshalText returns a placeholder.
func (Secret) MarshalText() ([]byte, error) { return []byte(hiddenSecret), nil }

// RFC 4226 section 4 (R6) demands 128 bits at least. HMAC-SHA-1 hashes a key of more
// than 64 bytes before it uses it.
const (
	minSecret = 16
	maxSecret = 64
)

// validateUsers reads the secrets, returns the users, and adds their names to seen. Restore
// leaves out users whose secret is missing: with an empty secret, anybody could compute their
// codes.
func (d *decoder) validateUsers(all []User, seen *names) (usable []User) {
	for i := range all {
		u := &all[i]
		key := fmt.Sprintf("users[%d]", i)
		d.newName(key, u.Name, seen)
		u.validate(d, key, usable)
		if d.kept == nil || u.Secret != nil {
			usable = append(usable, *u)
		}
	}
	d.finish(seen)
	return usable
}

func (u *User) validate(d *decoder, key string, others []User) {
	if u.File == "" {
		return
	}
	key += ".totp_file"
	if added, ok := d.unwritten[d.place(key)]; ok {
		u.Secret = added.Secret
	} else {
		var err error
		if u.Secret, err = readSecret(u.File); err != nil {
			d.lackAt(key, "%s %v", u.File, err)
			return
		}
	}
	for _, other := range others {
		if bytes.Equal(other.Secret, u.Secret) {
			d.lackAt(key, "user %q has the same secret (give each a secret of its own)", other.Name)
			if d.kept != nil {
				u.Secret = nil
			}
		}
	}
}

// readSecret reads a secret in base32 (RFC 4648 section 6) on one line. Case and spaces
// do not count, and padding is optional. Errors complete a sentence that begins with
// the name of the file, and never hold its content.
func readSecret(file string) (Secret, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, errors.New("cannot be read (a file that webknock may read)")
	}
	defer f.Close()
	const most = 1024 // bytes, with spaces
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, errors.New("cannot be read (a file that webknock may read)")
	}
	wrong := errors.New("holds no secret (letters and the digits 2 to 7 on one line, as webknock user add writes them)")
	line := strings.TrimSpace(string(text))
	if len(text) > most || strings.ContainsAny(line, "\r\n") {
		return nil, wrong
	}
	line = strings.ToUpper(strings.TrimRight(strings.ReplaceAll(line, " ", ""), "="))
	encoding := base32.StdEncoding.WithPadding(base32.NoPadding)
	secret, err := encoding.DecodeString(line)
	switch {
	case err != nil || encoding.EncodedLen(len(secret)) != len(line):
		return nil, wrong
	case len(secret) < minSecret || len(secret) > maxSecret:
		return nil, fmt.Errorf("holds a secret of %d bytes (%d to %d)", len(secret), minSecret, maxSecret)
	}
	return secret, nil
}
