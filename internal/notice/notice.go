// Package notice tells people what happens: it sends notices to push, chat and
// mail services, and tries again while one does not answer.
package notice

import (
	"slices"
	"strings"
	"text/template"
	"time"
)

// An Event is what a notice may tell of.
type Event string

// The events.
const (
	Completion Event = "completion" // of a sequence
	Grant      Event = "grant"      // opened; a renewal is none
	Repair     Event = "repair"     // of the guard
	Ban        Event = "ban"        // of a client
	Degraded   Event = "degraded"   // the daemon's state has changed, for the worse or back
)

// A Notice is something that has happened. It holds no secret. Templates see
// its fields; one that does not apply has its zero value.
type Notice struct {
	Event    Event
	Time     time.Time
	Sequence string
	Message  string // of the sequence
	Client   string // address, or prefix
	User     string
	Door     string
	Grant    string    // id
	Expires  time.Time // when the grant or the ban ends
	Reason   string    // of a repair, a ban, or a state that is not ok
	More     int       // events of the kind since the notice before, that have none of their own
	Host     string    // name of this host
}

// MaxText is the most bytes that the text of a notice has; what is longer is
// cut.
const MaxText = 4096

var defaults = map[Event]*template.Template{
	Completion: standard(`{{.Host}}: {{.Client}}{{with .User}} ({{.}}){{end}} has completed {{.Sequence}}{{with .Message}}: {{.}}{{end}}`),
	Grant:      standard(`{{.Host}}: door {{.Door}} is open to {{.Client}}{{with .User}} ({{.}}){{end}} until {{.Expires.Format "2006-01-02 15:04:05 MST"}}`),
	Repair:     standard(`{{.Host}}: guard repaired: {{.Reason}}{{with .More}} (and {{.}} more repairs){{end}}`),
	Ban:        standard(`{{.Host}}: {{.Client}} is banned until {{.Expires.Format "2006-01-02 15:04:05 MST"}}: {{.Reason}}{{with .More}} (and {{.}} more bans){{end}}`),
	Degraded:   standard(`{{.Host}}: {{with .Reason}}webknock is degraded: {{.}}{{else}}webknock is well again{{end}}`),
}

func standard(text string) *template.Template {
	return template.Must(template.New("notice").Parse(text))
}

// ParseTemplate returns the template of notices of some events. It has been
// tried on a sample of each.
func ParseTemplate(text string, events []Event) (*template.Template, error) {
	t, err := template.New("template").Parse(text)
	if err != nil {
		return nil, err
	}
	for _, event := range events {
		sample := Notice{
			Event: event, Time: time.Now(), Sequence: "ssh", Message: "hello", Client: "192.0.2.7", User: "alice",
			Door: "ssh", Grant: "g1", Expires: time.Now(), Reason: "a decoy", More: 1, Host: "home",
		}
		if _, err := render(t, sample); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// render returns the text of a notice. A nil template is the event's own.
func render(t *template.Template, n Notice) (string, error) {
	if t == nil {
		t = defaults[n.Event]
	}
	var text bounded
	if err := t.Execute(&text, n); err != nil {
		return "", err
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(text), "")), nil
}

// bounded is the first MaxText bytes of what is written to it.
type bounded []byte

func (b *bounded) Write(p []byte) (int, error) {
	*b = append(*b, p[:min(len(p), MaxText-len(*b))]...)
	return len(p), nil
}

// A Target is somebody who is told of events.
type Target struct {
	Place    string // in the configuration, as sequences[0].notify[1]
	URL      string // a secret
	Service  string // of URL
	Events   []Event
	Sequence string             // of which the events are; empty: of any, and those of none
	Template *template.Template // nil: the event's own
}

func (t Target) hears(n Notice) bool {
	return slices.Contains(t.Events, n.Event) && (t.Sequence == "" || t.Sequence == n.Sequence)
}
