package config

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// A Source is what a Config was read from: the text of the file, the environment, and
// the certificates, whose files may be lost when the Config is restored. It holds
// secrets: paths of steps and keys of certificates. It does not hold the secrets of
// users, so that a secret that is deleted opens nothing any more.
type Source struct {
	File        string            `json:"file"` // absolute; says the format, and the directory of relative paths
	Text        string            `json:"text"`
	Environment map[string]string `json:"environment"` // values of variables WEBKNOCK_…, by key
	// Certificates is the content of the files of listeners' certificates and
	// keys, in PEM, by path.
	Certificates map[string]string `json:"certificates"`
}

// Hash returns a hash of the text and its format.
func (s *Source) Hash() string {
	sum := sha256.Sum256([]byte(filepath.Ext(s.File) + "\x00" + s.Text))
	return hex.EncodeToString(sum[:])
}

// sourceOf returns the source of a configuration that was read from data.
func sourceOf(cfg *Config, data []byte) (*Source, error) {
	file, err := filepath.Abs(cfg.File)
	if err != nil {
		return nil, err
	}
	values, err := environment()
	if err != nil {
		return nil, err
	}
	return &Source{File: file, Text: string(data), Environment: values}, nil
}

// WithCertificates returns the source of a configuration with the certificates and
// keys that are on the disk now. If a pair there cannot be used, the source keeps the
// one that it has.
func (c *Config) WithCertificates() *Source {
	s := *c.Source
	s.Certificates = map[string]string{}
	for _, l := range c.Listeners {
		if l.TLS == nil || l.TLS.ACME != nil {
			continue
		}
		files := []string{l.TLS.Certificate, l.TLS.Key}
		if _, err := tls.LoadX509KeyPair(files[0], files[1]); err != nil {
			for _, file := range files {
				if old, ok := c.Source.Certificates[file]; ok {
					s.Certificates[file] = old
				}
			}
			continue
		}
		for _, file := range files {
			if content, err := os.ReadFile(file); err == nil {
				s.Certificates[file] = string(content)
			}
		}
	}
	return &s
}

// Restore decodes a configuration that was in force before, under the environment of
// its source. Files and users of the system that it names may be lost. It does without
// them, and lacks says what they are, each with its key:
//
//   - If the files of a certificate are lost, the certificate in the source is used.
//     Without that, the listener is left out.
//   - A user whose secret cannot be read is left out, so that no code of theirs matches.
//     A secret that others may read is used.
//   - A command that runs as a user who does not exist is left out.
//   - A cover whose body cannot be read has an empty body.
//   - A target of notices whose URL cannot be read is left out.
//   - What could never work or match, and makes Load fail, stays.
//
// An error means that this version of webknock does not understand the text.
func Restore(s *Source) (cfg *Config, lacks []string, err error) {
	root, err := parse(s.File, []byte(s.Text))
	if err != nil {
		return nil, nil, err
	}
	d := &decoder{name: s.File, kept: s}
	if cfg, err = d.decode(root, s.Environment); err != nil {
		return nil, nil, err
	}
	cfg.Listeners = slices.DeleteFunc(cfg.Listeners, func(l Listener) bool { return l.TLS != nil && l.TLS.lost })
	cfg.Source = s
	return cfg, d.lacks, nil
}

// keptCertificate finds a certificate and its key for Restore: in their files or, if
// those cannot be used, in the source.
func (d *decoder) keptCertificate(t *TLS, key string) {
	_, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err == nil {
		return
	}
	lack := fmt.Sprintf("%s.certificate: cannot be used: %v", key, err)
	kept := &Pair{Chain: []byte(d.kept.Certificates[t.Certificate]), Key: []byte(d.kept.Certificates[t.Key])}
	if _, keptErr := tls.X509KeyPair(kept.Chain, kept.Key); keptErr == nil {
		t.Kept = kept
		lack += " (the last good one serves)"
	} else {
		t.lost = true
		lack += " (the listener does not serve)"
	}
	d.lacks = append(d.lacks, lack)
}
