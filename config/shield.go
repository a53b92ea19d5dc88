package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Shield keeps clients from listeners.
type Shield struct {
	Rate   int           // new connections of a client to a listener that drops, in Per; 0: any number
	Per    time.Duration // a second, a minute or an hour
	Ban    Ban
	Decoys []string // paths; one request bans
}

// Ban says when a client is banned, and for how long.
type Ban struct {
	Knocks int           `mapstructure:"knocks" limits:"1..1000000" required:"how many ban, like 20"` // without a completion, in Within; 0: never
	Within time.Duration `mapstructure:"within" limits:"1s..24h"`                                     // of the first of them
	For    time.Duration `mapstructure:"for" limits:"1s..24h"`
	Doors  bool          `mapstructure:"doors"` // a ban ends grants as well
}

// shieldSection is the section as it stands in a file.
type shieldSection struct {
	Rate   rate     `mapstructure:"rate"`
	Ban    Ban      `mapstructure:"ban"`
	Decoys []string `mapstructure:"decoys" is:"request path"`
}

func defaultShield() shieldSection {
	return shieldSection{Rate: rate{20, time.Second}, Ban: Ban{Within: time.Minute, For: 10 * time.Minute}}
}

func (s shieldSection) shield() Shield {
	return Shield{Rate: s.Rate.Count, Per: s.Rate.Per, Ban: s.Ban, Decoys: s.Decoys}
}

func (s *shieldSection) validate(d *decoder) {
	for i, path := range s.Decoys {
		if slices.Contains(requestedByBrowsers, path) {
			d.warnAt(fmt.Sprintf("shield.decoys[%d]", i), "browsers request it on their own, so that clients who knock with a browser are banned (use another path)")
		}
	}
}

// rate is a number of connections in a time. Without a count it is off.
type rate struct {
	Count int
	Per   time.Duration
}

var rateForm = regexp.MustCompile(`^(\d{1,6})/(second|minute|hour)$`)

var units = map[string]time.Duration{"second": time.Second, "minute": time.Minute, "hour": time.Hour}

func (r rate) String() string {
	for unit, per := range units {
		if r.Count > 0 && per == r.Per {
			return fmt.Sprintf("%d/%s", r.Count, unit)
		}
	}
	return "off"
}

func (r *rate) read(d *decoder, v *value) any {
	s, ok := d.text(v)
	m := rateForm.FindStringSubmatch(s)
	switch {
	case !ok:
	case s == "off":
		*r = rate{Per: time.Second}
	case m == nil || strings.Trim(m[1], "0") == "":
		d.errorf(v.node, v.key, "%q is not a rate (like 20/second or 100/minute, or off)", s)
	default:
		r.Count, _ = strconv.Atoi(m[1])
		r.Per = units[m[2]]
	}
	return nil
}
