package config

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"

	"webknock/internal/notice"
)

// The events that may be told of.
var (
	ofSequences = []notice.Event{notice.Completion, notice.Grant}
	ofAll       = []notice.Event{notice.Repair, notice.Ban, notice.Degraded, notice.Completion, notice.Grant}
)

// targets reads who is told of events, and appends them. Who does not choose
// from the events hears of the standard ones.
func (d *decoder) targets(to *[]notice.Target, events []notice.Event, standard ...notice.Event) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		d.list(n, key, func(n *yaml.Node, key string) {
			t := notice.Target{Place: key, Events: standard}
			if n.Kind == yaml.ScalarNode {
				d.serviceURL(&t)(n, key)
			} else {
				d.target(n, key, &t, events)
			}
			if t.URL != "" {
				*to = append(*to, t)
			}
		})
	}
}

func (d *decoder) target(n *yaml.Node, key string, t *notice.Target, events []notice.Event) {
	there := d.mapping(n, key, fields{
		"url":      d.serviceURL(t),
		"url_file": d.serviceURLFile(t),
		"on": func(n *yaml.Node, key string) {
			t.Events = nil
			words := make([]string, len(events))
			for i, e := range events {
				words[i] = string(e)
			}
			d.list(n, key, func(n *yaml.Node, key string) {
				var word string
				d.oneOf(&word, words...)(n, key)
				if slices.Contains(t.Events, notice.Event(word)) {
					d.errorf(n, key, "%s is there twice (once)", word)
				}
				t.Events = append(t.Events, notice.Event(word))
			})
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.errorf(n, key, "is empty (at least one of %s)", strings.Join(words, ", "))
			}
		},
		"template": func(*yaml.Node, string) {}, // once the events are known
	})
	if there.known && !there.others && there.has("url") == there.has("url_file") {
		d.errorf(n, key, "needs either url or url_file (not both)")
	}
	if at := there.at("template"); at != nil {
		t.Template = d.template(at, key+".template", t.Events)
	}
}

func (d *decoder) template(n *yaml.Node, key string, events []notice.Event) *template.Template {
	text, ok := d.text(n, key)
	if !ok {
		return nil
	}
	t, err := notice.ParseTemplate(text, events)
	if err != nil {
		d.errorf(n, key, "%s (a text/template of Go; its fields are in docs/notices.md)", strings.TrimPrefix(err.Error(), "template: "))
	}
	return t
}

// serviceURL reads the URL of a service, a secret that no error may hold.
func (d *decoder) serviceURL(t *notice.Target) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		if text, ok := d.text(n, key); ok {
			d.service(n, key, t, text)
		}
	}
}

const maxURLFile = 4096 // bytes

// serviceURLFile is serviceURL for one that stands in a file of its own.
func (d *decoder) serviceURLFile(t *notice.Target) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		var file string
		d.secretFile(&file)(n, key)
		if file == "" {
			return
		}
		text, err := os.ReadFile(file)
		if text = bytes.TrimSpace(text); err != nil || len(text) > maxURLFile || bytes.ContainsAny(text, "\r\n") {
			d.lackf(n, key, "cannot be used (a file with the URL as its one line)")
			return
		}
		d.service(n, key, t, string(text))
	}
}

func (d *decoder) service(n *yaml.Node, key string, t *notice.Target, url string) {
	var err error
	if t.Service, err = notice.Check(url); err != nil {
		d.lackf(n, key, "%v", err)
		return
	}
	t.URL = url
}
