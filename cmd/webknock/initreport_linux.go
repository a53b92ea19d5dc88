package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// An initReport is what webknock init has found and done.
type initReport struct {
	Result    string      `json:"result"` // planned, written, or trial
	File      string      `json:"file"`
	Found     []found     `json:"found"`
	Config    string      `json:"config"`   // the text; empty: the file has one already
	Commands  []string    `json:"commands"` // that other firewalls need first
	Site      *site       `json:"site,omitempty"`
	Client    *clientSide `json:"client,omitempty"`
	ConfirmBy *time.Time  `json:"confirm_by,omitempty"`
	Next      string      `json:"next"` // for people
}

type found struct {
	About string `json:"about"` // ssh, you, web, firewall, clock and others
	Text  string `json:"text"`
}

// A site is a web server that has to pass knocks on.
type site struct {
	Program string `json:"program"`
	Snippet string `json:"snippet"`
}

// A clientSide is what a client needs.
type clientSide struct {
	Server    string `json:"server"`
	Profile   string `json:"profile"`
	Curl      string `json:"curl"` // empty: curl cannot knock
	SSH       string `json:"ssh"`
	SSHConfig string `json:"ssh_config"`
}

func (r *initReport) found(about, text string) { r.Found = append(r.Found, found{about, text}) }

// print prints the report.
func (i *initialisation) print(w io.Writer) error {
	if i.output == "json" {
		return printJSON(w, i.report)
	}
	_, err := io.WriteString(w, i.report.text(i.start))
	return err
}

// text writes the report for people. Started says whether webknock is started too.
func (r *initReport) text(started bool) string {
	var b strings.Builder
	head := func(format string, args ...any) { fmt.Fprintf(&b, "\n"+format+"\n\n", args...) }
	block := func(text string) {
		for line := range strings.Lines(text) {
			b.WriteString(strings.TrimRight("    "+line, " \n") + "\n")
		}
	}
	if r.Result == "planned" && !started {
		b.WriteString("This is a dry run: nothing is changed.\n")
	}
	head("Found:")
	for _, f := range r.Found {
		fmt.Fprintf(&b, "    %-10s%s\n", f.About, f.Text)
	}
	if len(r.Commands) > 0 {
		head("Other firewalls have to let clients through. Do this first:")
		block(strings.Join(r.Commands, "\n"))
	}
	if r.Config != "" {
		if r.Result == "planned" {
			head("%s would be this, with new secrets each time:", r.File)
		} else {
			head("%s is now this:", r.File)
		}
		block(r.Config)
	}
	if r.Site != nil {
		head("%s has to pass knocks on:", r.Site.Program)
		block(r.Site.Snippet)
	}
	if c := r.Client; c != nil {
		if c.Curl != "" {
			head("A client without webknock knocks and logs in by:")
			block(c.Curl + "\n" + c.SSH)
		}
		head("A client with webknock keeps this profile, which is secret, by:")
		// Not indented: it can be pasted into a shell as it is.
		b.WriteString("webknock profile add " + profileName + " <<'END'\n" + c.Profile + "END\n")
		head("and has this in ~/.ssh/config, for ssh %s:", profileName)
		block(c.SSHConfig)
	}
	if r.Next != "" {
		head("Next:")
		block(r.Next)
	}
	return strings.TrimPrefix(b.String(), "\n")
}
