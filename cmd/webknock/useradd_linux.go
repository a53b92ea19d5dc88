package main

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/pquerna/otp/totp"
	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/internal/atomicfile"
	"webknock/internal/tty"
)

// secretSize is the length of new secrets, in bytes (RFC 4226 section 4
// recommends 160 bits).
const secretSize = 20

type addedUser struct {
	Name string `json:"name"`
	File string `json:"file"`
	URI  string `json:"uri"`
	// Notes is what is left to be done, for people.
	Notes []string `json:"notes"`
}

func newUserAdd(a *app) *cobra.Command {
	file, issuer := "", "webknock"
	if host, err := os.Hostname(); err == nil {
		issuer += " " + host
	}
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a user, with a secret for one-time codes",
		Long: "add makes a secret, writes it to a file of its own and puts the user into the configuration.\n" +
			"It prints the secret as an otpauth URI for phone apps and, on a terminal, as a QR code.\n" +
			"A configuration that cannot be edited without changing more of it stays as it is: then add\n" +
			"prints the lines to put there.",
		Args: func(c *cobra.Command, args []string) error {
			if issuer == "" || strings.ContainsFunc(issuer, func(r rune) bool { return r == ':' || r < ' ' }) {
				return errors.New("--issuer is a name without colons (phone apps show it)")
			}
			return userName(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			u := config.User{Name: args[0], File: beside(a.configFile, args[0]+".totp", file), Secret: make(config.Secret, secretSize)}
			rand.Read(u.Secret) // never fails
			key, err := totp.Generate(totp.GenerateOpts{Issuer: issuer, AccountName: u.Name, Secret: u.Secret})
			if err != nil {
				return errors.New("make a code of the secret: it cannot be written as a URI")
			}
			notes, err := addUser(a.configFile, u)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), addedUser{u.Name, u.File, key.String(), notes})
			}
			defer func() {
				for _, note := range notes {
					fmt.Fprintln(c.ErrOrStderr(), note)
				}
			}()
			out := c.OutOrStdout()
			fmt.Fprintf(out, "the secret of %s is in %s\n", u.Name, u.File)
			if tty.IsTerminal(out) {
				if err := printQR(out, key.String()); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintln(out, key.String())
			return err
		},
	}
	c.Flags().StringVar(&file, "file", "", "write the secret to `PATH` (default NAME.totp beside the configuration)")
	c.Flags().StringVar(&issuer, "issuer", issuer, "`NAME` that phone apps show beside that of the user")
	return c
}

// beside returns the path of a file beside the configuration; or chosen, if it
// is not empty, so that it does not depend on the working directory.
func beside(configFile, name, chosen string) string {
	dir := filepath.Dir(configFile)
	if chosen == "" {
		return filepath.Join(dir, name)
	}
	path, err := filepath.Abs(chosen)
	if err != nil {
		return chosen
	}
	if abs, err := filepath.Abs(dir); err == nil && abs == filepath.Dir(path) {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// addUser writes a user's secret and puts the user into the configuration, or
// does neither. It returns what is to be known or left to be done.
func addUser(configFile string, u config.User) (notes []string, err error) {
	data, err := os.ReadFile(configFile)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w (webknock init writes one; another file: --config FILE)", err)
	}
	text, cfg, err := config.WithUser(configFile, data, u)
	byHand := errors.Is(err, config.ErrByHand)
	if err != nil && !byHand {
		return nil, fmt.Errorf("with %s the configuration would have errors:\n%w", u.Name, err)
	}
	uid, gid, note, err := secretOwner(cfg.State)
	if err != nil {
		return nil, err
	}
	if note != "" {
		notes = append(notes, note)
	}
	if err := writeSecret(u, uid, gid); err != nil {
		return nil, err
	}
	if !byHand {
		err = atomicfile.Replace(configFile, text)
		byHand = errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS)
		if err != nil && !byHand {
			return nil, errors.Join(err, os.Remove(u.File))
		}
	}
	if byHand {
		return append(notes, fmt.Sprintf("%s is left as it is: add to its users\n\n%s\nand then %s", configFile, config.UserLines(configFile, u), reloadHint)), nil
	}
	notes = append(notes, fmt.Sprintf("%s is one of the users of %s; %s", u.Name, configFile, reloadHint))
	return append(notes, useOfCodes(cfg, u.Name)), nil
}

// writeSecret writes a user's secret to a new file.
func writeSecret(u config.User, uid, gid int) error {
	line := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(u.Secret) + "\n"
	switch err := atomicfile.Create(u.File, []byte(line), uid, gid); {
	case errors.Is(err, os.ErrExist):
		return fmt.Errorf("%s is there already, and a secret is never overwritten (another --file, or remove it)", u.File)
	case err != nil:
		return fmt.Errorf("write the secret: %w", err)
	}
	return nil
}

// useOfCodes says which steps take a user's codes.
func useOfCodes(cfg *config.Config, name string) string {
	var steps []string
	for _, s := range cfg.Sequences {
		if !s.Admits(name) {
			continue
		}
		for i, step := range s.Steps {
			if step.Trigger.Variable() != "" {
				steps = append(steps, fmt.Sprintf("step %d of %s", i+1, s.Name))
			}
		}
	}
	if len(steps) == 0 {
		return "no step takes the codes of " + name + " yet (write a step like /k/{totp} or /t/{ticket})"
	}
	return "codes of " + name + " are for " + strings.Join(steps, ", ") + "; webknock enroll SEQUENCE --user " + name + " prints what a client needs"
}

// secretOwner returns the owner for a secret: the owner of the state directory, as which the
// daemon runs, or -1 for the user of this process. The note says what may be wrong with that.
func secretOwner(state string) (uid, gid int, note string, err error) {
	info, err := os.Stat(state)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if state == packageState {
			if uid, gid, note := daemonUser(); note == "" {
				return uid, gid, "", nil
			}
		}
		return -1, -1, fmt.Sprintf("%s is not there yet, so the secret is yours: a daemon that runs as another user needs it (chown)", state), nil
	case err != nil:
		return 0, 0, "", fmt.Errorf("find the daemon's user: %w", err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	switch {
	case int(owner.Uid) == os.Geteuid():
		return -1, -1, "", nil
	case os.Geteuid() != 0:
		return -1, -1, fmt.Sprintf("%s is another user's: if that is the daemon's, it cannot read your secret (run this as root)", state), nil
	}
	return int(owner.Uid), int(owner.Gid), "", nil
}

// packageState is the state directory that the unit makes, for its user.
const packageState = "/var/lib/webknock"

// daemonUser returns the user and the group as which the unit runs the daemon, or -1 for
// those of this process. The note says why.
func daemonUser() (uid, gid int, note string) {
	if os.Geteuid() != 0 {
		return -1, -1, "you are not root, so what is written is yours: a daemon that runs as another user cannot read it"
	}
	u, err := user.Lookup("webknock")
	if err == nil {
		uid, err = strconv.Atoi(u.Uid)
	}
	if err == nil {
		gid, err = strconv.Atoi(u.Gid)
	}
	if err != nil {
		return -1, -1, "there is no user webknock, so what is written is root's alone (the package makes one, or systemd-sysusers)"
	}
	return uid, gid, ""
}
