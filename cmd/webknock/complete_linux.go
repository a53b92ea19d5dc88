package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/httpd/admin"
)

// serverArguments are those of the commands of the daemon's host. The running
// daemon knows doors, grants, clients and bans; where it does not run, or may not be
// asked, nothing is completed. Users and sequences are those of the file.
func (a *app) serverArguments() []argument {
	return []argument{
		{command: "open", words: a.doors},
		{command: "open", place: 1, words: a.clients},
		{command: "close", words: a.grants},
		{command: "close", flag: "door", words: a.doors},
		{command: "close", flag: "client", words: a.grantedClients},
		{command: "explain", words: a.clients},
		{command: "unban", words: a.bans},
		{command: "enroll", words: a.sequences},
		{command: "enroll", flag: "user", words: a.users},
		{command: "user remove", words: a.users},
		{command: "log", flag: "user", words: a.users},
		{command: "log", flag: "door", words: a.doors},
		{command: "log", flag: "client", words: a.grantedClients},
		{command: "log", flag: "event", words: func(*cobra.Command) []string { return admin.HistoryEvents }},
		{command: "events", flag: "kind", words: func(*cobra.Command) []string { return admin.EventKinds }},
		{command: "events", flag: "door", words: a.doors},
		{command: "events", flag: "sequence", words: a.sequences},
		{command: "events", flag: "client", words: a.clients},
	}
}

// completionTimeout is how long a shell waits for the daemon.
const completionTimeout = time.Second

// ask has the daemon answer in time, and returns the words of its answer.
func ask[T any](c *cobra.Command, question func(context.Context) (T, error), words func(T) []string) []string {
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	answer, err := question(ctx)
	if err != nil {
		return nil
	}
	return words(answer)
}

func (a *app) doors(c *cobra.Command) []string {
	return ask(c, a.api().Status, func(s admin.Status) (words []string) {
		for _, d := range s.Doors {
			words = append(words, d.Name)
		}
		return words
	})
}

func (a *app) grants(c *cobra.Command) []string {
	return ask(c, a.api().Grants, func(l admin.GrantList) (words []string) {
		for _, g := range l.Grants {
			words = append(words, g.ID+"\t"+g.Door+" "+g.Client+" "+g.User)
		}
		return words
	})
}

func (a *app) grantedClients(c *cobra.Command) []string {
	return ask(c, a.api().Grants, func(l admin.GrantList) (words []string) {
		for _, g := range l.Grants {
			words = append(words, g.Client+"\t"+g.Door)
		}
		return words
	})
}

func (a *app) clients(c *cobra.Command) []string {
	return ask(c, a.api().Clients, func(l admin.ClientList) (words []string) {
		for _, p := range l.Clients {
			words = append(words, p.Client+"\t"+p.Sequence)
		}
		return words
	})
}

func (a *app) bans(c *cobra.Command) []string {
	return ask(c, a.api().Bans, func(l admin.BanList) (words []string) {
		for _, b := range l.Bans {
			words = append(words, b.Client)
		}
		return words
	})
}

func (a *app) users(*cobra.Command) (words []string) {
	if cfg, err := config.Load(a.configFile); err == nil {
		for _, u := range cfg.Users {
			words = append(words, u.Name)
		}
	}
	return words
}

func (a *app) sequences(*cobra.Command) (words []string) {
	if cfg, err := config.Load(a.configFile); err == nil {
		for _, s := range cfg.Sequences {
			words = append(words, s.Name)
		}
	}
	return words
}
