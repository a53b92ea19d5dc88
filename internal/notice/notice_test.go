package notice

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestANoticeIsOneReadableLine(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 30, 0, time.UTC)
	for _, tt := range []struct {
		n    Notice
		want string
	}{
		{Notice{Event: Completion, Client: "192.0.2.7", Sequence: "ssh"}, "home: 192.0.2.7 has completed ssh"},
		{Notice{Event: Completion, Client: "192.0.2.7", Sequence: "ssh", User: "alice", Message: "hello"}, "home: 192.0.2.7 (alice) has completed ssh: hello"},
		{Notice{Event: Grant, Client: "192.0.2.7", Door: "ssh", Expires: at}, "home: door ssh is open to 192.0.2.7 until 2026-11-25 12:00:30 UTC"},
		{Notice{Event: Repair, Reason: "the table is gone"}, "home: guard repaired: the table is gone"},
		{Notice{Event: Ban, Client: "192.0.2.7", Reason: "a decoy", Expires: at, More: 3}, "home: 192.0.2.7 is banned until 2026-11-25 12:00:30 UTC: a decoy (and 3 more bans)"},
		{Notice{Event: Degraded, Reason: "no guard"}, "home: webknock is degraded: no guard"},
		{Notice{Event: Degraded}, "home: webknock is well again"},
	} {
		tt.n.Host = "home"
		if got, err := render(nil, tt.n); err != nil || got != tt.want {
			t.Errorf("%q, %v; want %q", got, err, tt.want)
		}
	}
}

func TestATemplateIsTriedBeforeItIsNeeded(t *testing.T) {
	for text, want := range map[string]string{
		"{{.Client}} at {{.Time.Year}}": "",
		"{{.Cliennt}}":                  "can't evaluate field Cliennt",
		"{{.Client":                     "unclosed action",
		"{{.Client.Nothing}}":           "can't evaluate field Nothing",
		`{{if eq .Event "ban"}}{{.Client.Nothing}}{{end}}`: "can't evaluate field Nothing",
		`{{if eq .Event "repair"}}{{.Nothing}}{{end}}`:     "", // never told of
	} {
		_, err := ParseTemplate(text, []Event{Completion, Ban})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestTextIsCutBetweenCharacters(t *testing.T) {
	long, err := ParseTemplate(`x{{.Message}}`, []Event{Ban})
	if err != nil {
		t.Fatal(err)
	}
	got, err := render(long, Notice{Message: strings.Repeat("ö", MaxText)})
	if err != nil || got != "x"+strings.Repeat("ö", (MaxText-1)/2) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAURLIsCheckedAndNeverShown(t *testing.T) {
	for url, want := range map[string]string{
		"ntfy://ntfy.sh/s3cret":                             "",
		"generic+http://127.0.0.1:1/s3cret?template=json":   "",
		"matrix://alice:s3cret@127.0.0.1:1/?disableTLS=yes": "", // without a login
		"smtp://127.0.0.1:25/?from=a@example.org&to=s3cret": "",
		"ntfy://s3cret":                        `not the URL of a ntfy service`,
		"ntfy://ntfy.sh/s3cret?nothing=s3cret": `not the URL of a ntfy service`,
		"ntfy+http://ntfy.sh/s3cret":           `not the URL of a ntfy service`,
		"telegram://s3cret@telegram?chats=1":   `not the URL of a telegram service`,
		"matrix://:s3cret@h/?rooms=":           `not the URL of a matrix service`, // the library panics
		"smtp://a:s3cret@h/?to=b@example.org":  `not the URL of a smtp service`,
		"generic://h/%s3cret":                  `not the URL of a generic service`,
		"pigeon://s3cret":                      `service "pigeon" is unknown (one of bark, discord, `,
		"logger://s3cret":                      `service "logger" is unknown`,
		"s3cret":                               `not the URL of a service (like ntfy://ntfy.sh/topic)`,
		"https://user:s3cret@h":                `service "https" is unknown`,
		"":                                     `not the URL of a service`,
	} {
		_, err := Check(url)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error has the secret: %v", err)
		}
	}
}

func TestTheURLsOfTheDocumentationAreRight(t *testing.T) {
	text := read(t, "../../docs/notices.md")
	all := regexp.MustCompile(`(?m)^\| [^|]* \| .([a-z+]+://[^| ]+). \|`).FindAllStringSubmatch(text, -1)
	for _, m := range all {
		if _, err := Check(m[1]); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
	}
	if len(all) < 6 {
		t.Errorf("%d URLs found", len(all))
	}
	for _, s := range Services() {
		if !strings.Contains(text, s) {
			t.Errorf("no word of %s", s)
		}
	}
}
