package config

import (
	"fmt"
	"net/http"
	"net/url"
	"os"

	"go.yaml.in/yaml/v3"
)

// Cover is what every request gets to see. The zero Cover drops.
type Cover struct {
	Status   int      `mapstructure:"status" limits:"200..599"`
	BodyFile string   `mapstructure:"body_file" is:"file"`
	Body     []byte   `mapstructure:"-"` // content of BodyFile
	Proxy    *url.URL `mapstructure:"proxy"`
}

// String names the cover as the status does.
func (c Cover) String() string {
	switch {
	case c.Proxy != nil:
		return "proxy"
	case c.Status != 0:
		return fmt.Sprint("status ", c.Status)
	}
	return "drop"
}

// Drops reports whether no request gets an answer.
func (c Cover) Drops() bool { return c.Status == 0 && c.Proxy == nil }

const maxBody = 1 << 20 // bytes of a constant response

// read takes a mapping, or the word drop.
func (c *Cover) read(d *decoder, v *value) any {
	if v.node.Kind != yaml.ScalarNode {
		return d.mapping(v, c)
	}
	if s, ok := d.text(v); ok {
		d.isWord(v, s, []string{"drop"})
	}
	return nil
}

func (c *Cover) validate(d *decoder, key string) {
	if c.BodyFile != "" {
		var err error
		if c.Body, err = os.ReadFile(c.BodyFile); err != nil || len(c.Body) > maxBody {
			d.lackAt(key+".body_file", "cannot be used (a file of up to 1 MiB)")
			c.Body = nil
		}
	}
	there := d.keys[key]
	switch {
	case !there.known || there.others:
	case there.has("status") == there.has("proxy"):
		d.errorAt(key, "needs either status or proxy (or write drop)")
	case there.has("body_file") && there.has("proxy"):
		d.errorAt(key+".body_file", "a real site gives its own responses (leave it out, or write status in place of proxy)")
	case c.Body != nil && (c.Status == http.StatusNoContent || c.Status == http.StatusNotModified):
		d.errorAt(key+".body_file", "a response %d has no body (use another status, or leave it out)", c.Status)
	}
}
