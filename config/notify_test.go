package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"webknock/internal/notice"
)

func TestEachRecipientOfNoticesHasItsEvents(t *testing.T) {
	file := filepath.Join(t.TempDir(), "w.yaml")
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "ntfy.url"), []byte("ntfy://h/file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Parse(file, []byte(strings.Replace(smallest, "opens: [ssh]", `notify:
      - &mine ntfy://h/topic
      - {url_file: ntfy.url, on: [grant, completion], template: "{{.Client}}"}
notify:
  - *mine
  - {url: "generic+http://h/", on: [ban]}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, target := range cfg.Notify {
		got = append(got, fmt.Sprint(target.Place, " ", target.Sequence, " ", target.Service, " ", target.URL, " ", target.Events, " ", target.Template != nil))
	}
	want := []string{
		"notify[0]  ntfy ntfy://h/topic [repair degraded] false",
		"notify[1]  generic generic+http://h/ [ban] false",
		"sequences[0].notify[0] ssh ntfy ntfy://h/topic [completion] false",
		"sequences[0].notify[1] ssh ntfy ntfy://h/file [grant completion] true",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("targets\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, event := range cfg.Notify[0].Events {
		if event == notice.Ban {
			t.Error("bans are told of by default")
		}
	}
}

func TestErrorsOfNoticesSayWhereAndShowNoSecret(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"open": "ntfy://h/s3cret\n", "two": "ntfy://h/s3cret\nntfy://h/s3cret\n", "wrong": "pigeon://s3cret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	for item, want := range map[string]string{
		"pigeon://s3cret": `w.yaml:9:14: sequences[0].notify[0]: service "pigeon" is unknown (one of bark, `,
		"ntfy://s3cret":   `sequences[0].notify[0]: not the URL of a ntfy service (docs/notices.md has examples)`,
		"s3cret":          `sequences[0].notify[0]: not the URL of a service (like ntfy://ntfy.sh/topic)`,
		"[]":              `sequences[0].notify[0]: is not a mapping`,
		"null":            `sequences[0].notify[0]: is empty, and a text`,
		"{on: [grant]}":   `sequences[0].notify[0]: needs either url or url_file`,
		"{url: 'ntfy://h/s3cret', url_file: wrong}":         `sequences[0].notify[0]: needs either url or url_file`,
		"{url: 'ntfy://h/s3cret', on: [ban]}":               `sequences[0].notify[0].on[0]: "ban" is unknown (one of completion, grant)`,
		"{url: 'ntfy://h/s3cret', on: []}":                  `sequences[0].notify[0].on: is empty (at least one of completion, grant)`,
		"{url: 'ntfy://h/s3cret', on: [grant, grant]}":      `sequences[0].notify[0].on[1]: grant is there twice (remove one)`,
		"{url: 'ntfy://h/s3cret', template: '{{.Cleint}}'}": `sequences[0].notify[0].template: template:1:2: executing "template" at <.Cleint>: can't evaluate field Cleint`,
		"{url: 'ntfy://h/s3cret', topic: x}":                `sequences[0].notify[0].topic: unknown key`,
		"{url_file: nowhere}":                               `sequences[0].notify[0].url_file: cannot be read`,
		"{url_file: open}":                                  `sequences[0].notify[0].url_file: everybody may read`,
		"{url_file: two}":                                   `sequences[0].notify[0].url_file: cannot be used (a file with the URL as its one line)`,
		"{url_file: wrong}":                                 `sequences[0].notify[0].url_file: service "pigeon" is unknown`,
	} {
		_, err := Parse(filepath.Join(dir, "w.yaml"), []byte(strings.Replace(smallest, "opens: [ssh]", "notify: ["+item+"]", 1)))
		var errs Errors
		if !errors.As(err, &errs) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", item, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the URL is in the error: %v", err)
		}
	}
}
