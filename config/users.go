package config

import (
	"bytes"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"webknock/sequence"
)

// User is a named secret behind one-time steps.
type User struct {
	Name   string
	File   string // that holds the secret
	Secret Secret
}

// Secret is the key of a user's one-time codes, 16 to 64 bytes. It shows itself
// to nobody: whatever prints, logs or marshals it gets a placeholder.
type Secret []byte

const hiddenSecret = "[secret]"

// Format writes a placeholder, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, hiddenSecret) }

// MarshalText returns a placeholder.
func (Secret) MarshalText() ([]byte, error) { return []byte(hiddenSecret), nil }

// The least is that of RFC 4226 section 4 (R6), 128 bits; HMAC-SHA-1 hashes a
// key of more than 64 bytes down first.
const (
	minSecret = 16
	maxSecret = 64
)

// Admits reports whether a user may use the one-time steps of the sequence. It
// is false if there are none.
func (s Sequence) Admits(user string) bool {
	return s.has(sequence.TOTP, sequence.Ticket) && (len(s.Users) == 0 || slices.Contains(s.Users, user))
}

// has reports whether a step of the sequence holds one of the variables.
func (s Sequence) has(variables ...string) bool {
	return slices.ContainsFunc(s.Steps, func(step sequence.Step) bool {
		return slices.ContainsFunc(variables, func(v string) bool { return strings.Contains(step.Trigger.Template, v) })
	})
}

func (d *decoder) user(n *yaml.Node, key string, cfg *Config, seen *names) {
	var u User
	there := d.mapping(n, key, fields{
		"name": d.named(&u.Name, seen),
		"totp_file": func(n *yaml.Node, key string) {
			if !d.secret(&u, n, key) {
				return
			}
			for _, other := range cfg.Users {
				if bytes.Equal(other.Secret, u.Secret) {
					d.lackf(n, key, "user %q has the same secret (give each a secret of its own)", other.Name)
					if d.kept != nil {
						u.Secret = nil
					}
				}
			}
		},
	})
	d.need(n, key, there, "name", "like alice")
	d.need(n, key, there, "totp_file", "the file with the secret, as webknock user add NAME makes it")
	seen.incomplete = seen.incomplete || u.Name == ""
	if d.kept != nil && u.Secret == nil {
		return // nobody's codes match: without a secret anybody could make them
	}
	cfg.Users = append(cfg.Users, u)
}

// secret reads a user's file, and reports whether it could.
func (d *decoder) secret(u *User, n *yaml.Node, key string) bool {
	if new, ok := d.unwritten[n]; ok {
		u.File, u.Secret = new.File, new.Secret
		return true
	}
	d.secretFile(&u.File)(n, key)
	if u.File == "" {
		return false
	}
	var err error
	if u.Secret, err = readSecret(u.File); err != nil {
		d.lackf(n, key, "%s %v", u.File, err)
	}
	return err == nil
}

// readSecret reads a secret in base32 (RFC 4648 section 6) on one line; case and
// spaces do not count, and padding may be left out. Errors complete a sentence
// that begins with the name of the file, and never hold what is in it.
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
