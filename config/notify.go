package config

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"

	"webknock/internal/notice"
)

// The events that notices may be about.
var (
	ofSequences = []notice.Event{notice.Completion, notice.Grant}
	ofAll       = []notice.Event{notice.Repair, notice.Ban, notice.Degraded, notice.Completion, notice.Grant}
)

// target is who gets notices, as it stands in a file: the URL of a service alone,
// or a mapping. The URL is a secret that no error may hold.
type target struct {
	URL      string   `mapstructure:"url" is:"service"`
	URLFile  string   `mapstructure:"url_file" is:"secret"`
	On       []string `mapstructure:"on"`
	Template string   `mapstructure:"template"`
}

func (t *target) read(d *decoder, v *value) any {
	if v.node.Kind != yaml.ScalarNode {
		return d.mapping(v, t)
	}
	if text, ok := d.text(v); ok {
		t.URL = text
	}
	return nil
}

// validateTargets returns the targets that can be reached. Targets that do not
// choose from the events get the standard ones.
func (d *decoder) validateTargets(key string, all []target, events []notice.Event, standard ...notice.Event) (usable []notice.Target) {
	for i := range all {
		if t := all[i].validate(d, fmt.Sprintf("%s[%d]", key, i), events, standard); t.URL != "" {
			usable = append(usable, t)
		}
	}
	return usable
}

func (t *target) validate(d *decoder, key string, events, standard []notice.Event) notice.Target {
	result := notice.Target{Place: key, Events: standard}
	there := d.keys[key]
	if there.known && !there.others && there.has("url") == there.has("url_file") {
		d.errorAt(key, "needs either url or url_file (not both)")
	}
	switch {
	case !there.known && !d.wrong(key):
		d.service(key, &result, t.URL)
	case there.at("url") != nil && !d.wrong(key+".url"):
		d.service(key+".url", &result, t.URL)
	}
	if t.URLFile != "" {
		d.serviceFile(key+".url_file", &result, t.URLFile)
	}
	if there.at("on") != nil {
		result.Events = t.validateEvents(d, key+".on", events)
	}
	if at := key + ".template"; there.at("template") != nil && !d.wrong(at) {
		result.Template = d.template(at, t.Template, result.Events)
	}
	return result
}

func (t *target) validateEvents(d *decoder, key string, events []notice.Event) (chosen []notice.Event) {
	words := make([]string, len(events))
	for i, e := range events {
		words[i] = string(e)
	}
	for i, word := range t.On {
		at := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case d.wrong(at):
		case !slices.Contains(words, word):
			d.errorAt(at, "%q is unknown (%s)", word, oneOfWords(word, words))
		case slices.Contains(chosen, notice.Event(word)):
			d.errorAt(at, "%s is there twice (remove one)", word)
		}
		chosen = append(chosen, notice.Event(word))
	}
	if n := d.place(key); len(t.On) == 0 && !isNull(n) && !d.wrong(key) {
		d.errorAt(key, "is empty (at least one of %s)", strings.Join(words, ", "))
	}
	return chosen
}

func (d *decoder) template(key, text string, events []notice.Event) *template.Template {
	t, err := notice.ParseTemplate(text, events)
	if err != nil {
		d.errorAt(key, "%s (a text/template of Go; its fields are in docs/notices.md)", strings.TrimPrefix(err.Error(), "template: "))
	}
	return t
}

const maxURLFile = 4096 // bytes

// serviceFile reads the URL of a service from a file of its own.
func (d *decoder) serviceFile(key string, t *notice.Target, file string) {
	text, err := os.ReadFile(file)
	if text = bytes.TrimSpace(text); err != nil || len(text) > maxURLFile || bytes.ContainsAny(text, "\r\n") {
		d.lackAt(key, "cannot be used (a file with the URL as its one line)")
		return
	}
	d.service(key, t, string(text))
}

func (d *decoder) service(key string, t *notice.Target, url string) {
	var err error
	if t.Service, err = notice.Check(url); err != nil {
		d.lackAt(key, "%v", err)
		return
	}
	t.URL = url
}
