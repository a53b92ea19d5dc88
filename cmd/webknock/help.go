package main

import "github.com/spf13/cobra"

// What a newcomer needs, for webknock --help.
const (
	firstOnServer = `  sudo webknock init                 what it would set up here; it changes nothing yet
  sudo webknock status               is all well, and who is in?
  sudo webknock explain 192.0.2.7    why did that knock not work?
  sudo webknock log --since 24h      who came in, and how it ended
`
	firstOnClient = `  webknock knock home                on a laptop: knock, and wait until the door is open`
)

// groups are the headings of webknock --help, with their commands.
var groups = []struct {
	title    string
	commands []string
}{
	{"See and understand:", []string{"status", "top", "ui", "explain", "log", "events", "clients", "grants", "bans", "doctor"}},
	{"Set up and run:", []string{"init", "check", "serve", "reload", "confirm", "guard", "unguard"}},
	{"Let in and keep out:", []string{"open", "close", "unban", "user", "enroll", "hash"}},
	{"Knock:", []string{"knock", "connect", "ssh-config", "profile", "page"}},
}

// setGroups orders the commands of the program in its help by what they are for.
func setGroups(root *cobra.Command) {
	root.Example = firstOnClient
	if len(serverCommands) > 0 {
		root.Example = firstOnServer + firstOnClient
	}
	for _, g := range groups {
		used := false
		for _, c := range root.Commands() {
			for _, name := range g.commands {
				if c.Name() == name {
					c.GroupID, used = g.title, true
				}
			}
		}
		if used {
			root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		}
	}
}
