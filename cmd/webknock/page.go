package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"webknock/internal/client"
	"webknock/internal/tty"
)

func newPage(a *app) *cobra.Command {
	var o client.PageOptions
	c := &cobra.Command{
		Use:   "page PROFILE",
		Short: "Print a web page with which a phone's browser knocks",
		Long: "page prints one HTML file with a large button, which needs no server. Steps and secret are sealed\n" +
			"in it by a passphrase: from WEBKNOCK_PASSPHRASE, the terminal, or the first line of standard input.",
		Example: "  webknock page home > knock.html",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := client.Load(args[0])
			if err != nil {
				return err
			}
			o.Door = cmp.Or(o.Door, p.Name)
			if o.Passphrase, err = passphrase(c.InOrStdin(), c.ErrOrStderr()); err != nil {
				return err
			}
			var page bytes.Buffer
			if err := client.WritePage(&page, p, o); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), map[string]string{"page": page.String()})
			}
			_, err = page.WriteTo(c.OutOrStdout())
			return err
		},
	}
	c.Flags().StringVar(&o.Door, "name", "", "what the page says it opens, a `DOOR` (default: the profile's name)")
	c.Flags().BoolVar(&o.Keep, "keep", false, "the browser keeps the keys, so that the passphrase is asked for once")
	c.Flags().StringVar(&o.Poll, "poll", "", "a `URL` behind the door that answers once it is open")
	c.Flags().DurationVar(&o.TTL, "ttl", 0, "how long the countdown runs (default: the profile's ttl, or 30s)")
	c.Flags().DurationVar(&o.Lock, "lock", time.Minute, "lock the page after so long without use; 0s: never")
	return c
}

// passphrase reads the passphrase of a page.
func passphrase(in io.Reader, prompt io.Writer) (string, error) {
	if p := os.Getenv("WEBKNOCK_PASSPHRASE"); p != "" {
		return p, nil
	}
	if !tty.IsTerminal(in) {
		line, err := bufio.NewReader(in).ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", errors.Join(errors.New("no passphrase: set WEBKNOCK_PASSPHRASE, or write it to standard input"), ignoreEOF(err))
		}
		return line, nil
	}
	fd := int(in.(*os.File).Fd())
	ask := func(what string) (string, error) {
		fmt.Fprint(prompt, what+": ")
		typed, err := term.ReadPassword(fd)
		fmt.Fprintln(prompt)
		return string(typed), err
	}
	first, err := ask("Passphrase for the page")
	if err != nil {
		return "", err
	}
	again, err := ask("Once more")
	if err == nil && first != again {
		err = errors.New("the two passphrases differ")
	}
	return first, err
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
