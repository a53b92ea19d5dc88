package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"webknock/config"
	"webknock/httpd/admin"
	"webknock/internal/atomicfile"
	"webknock/internal/client"
	"webknock/internal/doctor"
	"webknock/internal/setup"
)

// An initialisation is one run of webknock init.
type initialisation struct {
	*app
	wishes       setup.Wishes
	write, start bool
	trial        time.Duration

	report *initReport
}

func newInit(a *app) *cobra.Command {
	i := initialisation{app: a, trial: standingTrial}
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a configuration that fits this host, and start it under a trial",
		Long: "init finds out on which ports sshd listens, which web server and which firewalls there are, and\n" +
			"how you have come, and shows the configuration that fits, what else has to be allowed, and what a\n" +
			"client needs. By itself it changes nothing. With --write it writes the configuration, and never over\n" +
			"one that is there. With --start it also starts webknock, guarded: unless somebody logs in by a new\n" +
			"session and confirms in time, all is undone.",
		Example: "  webknock init\n  webknock init --start\n  webknock init --user alice --write",
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.NoArgs(c, args); err != nil {
				return err
			}
			if i.wishes.Host != "" {
				if _, err := client.ParseServer("http://" + bracketed(i.wishes.Host)); err != nil || strings.ContainsAny(i.wishes.Host, "/[]") {
					return fmt.Errorf("--host %q is no name and no address (like home.example.org or 192.0.2.1)", i.wishes.Host)
				}
			}
			if i.wishes.User != "" && !config.IsName(i.wishes.User) {
				return fmt.Errorf("--user %q is no name for a user (1 to 32 of a-z, 0-9, _ and -, starting with a letter)", i.wishes.User)
			}
			if c.Flags().Changed("port") && i.wishes.Port == 0 {
				return errors.New("--port is from 1 to 65535")
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			i.write = i.write || i.start
			i.report = &initReport{Result: "planned", File: a.configFile, Found: []found{}, Commands: []string{}}
			return i.run(c)
		},
	}
	c.Flags().BoolVar(&i.write, "write", false, "write the configuration")
	c.Flags().BoolVar(&i.start, "start", false, "write the configuration, if there is none, and start webknock under a trial")
	c.Flags().Var((*trialTime)(&i.trial), "confirm", "with --start, undo all unless webknock confirm follows within `DURATION` (default 2m)")
	c.Flags().StringVar(&i.wishes.Host, "host", "", "`NAME` or address by which clients reach this host (default the address by which you came)")
	c.Flags().Uint16Var(&i.wishes.Port, "port", 0, "`PORT` to listen on for knocks (default a free one, or behind the web server)")
	c.Flags().StringVar(&i.wishes.User, "user", "", "make a `USER` who knocks with one-time tickets, instead of secret paths")
	return c
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// run finds out, checks everything, and only then writes and starts.
func (i *initialisation) run(c *cobra.Command) error {
	ctx := c.Context()
	facts, err := setup.Find(ctx)
	if err != nil {
		return fmt.Errorf("find out who listens here: %w", err)
	}
	there, err := hasKeys(i.configFile)
	if err != nil {
		return err
	}
	if there && !i.start {
		return fmt.Errorf("%s has a configuration already, which is never overwritten (webknock init --start starts it under a trial; to begin anew, move it away)", i.configFile)
	}
	if i.start {
		if err := i.mayStart(ctx, &facts); err != nil {
			return err
		}
	}
	i.describe(&facts)
	var text []byte
	var cfg *config.Config
	var user *config.User
	if there {
		if cfg, err = config.Load(i.configFile); err != nil {
			return fmt.Errorf("%s has errors, and nothing has changed:\n%w", i.configFile, err)
		}
		i.report.found("file", i.configFile+" has a configuration, which stays as it is")
		if len(cfg.Sequences) > 0 {
			i.report.found("client", "webknock enroll "+cfg.Sequences[0].Name+" --host URL prints what a client needs")
		}
	} else {
		plan, err := setup.NewPlan(&facts, i.wishes, func() string { return randomPath(pathBytes) })
		if err != nil {
			return err
		}
		if text, cfg, user, err = i.compose(&plan); err != nil {
			return err
		}
		if err := i.client(&plan, cfg); err != nil {
			return err
		}
		if address := facts.HiddenBehind(i.wishes); address != "" {
			problem := address + " is a private address of this host, and you came from outside"
			if i.start {
				return fmt.Errorf("%s, and nothing has changed (say with --host how clients reach it)", problem)
			}
			i.report.found("host", problem+": say with --host how clients reach it")
		}
		i.report.Config = string(text)
		if plan.Site != nil {
			i.report.Site = &site{plan.Site.Program, plan.Site.Snippet()}
			if i.start {
				return fmt.Errorf("%s has to pass knocks on first, and nothing has changed (webknock init --write prints what to put there; then webknock init --start)", plan.Site.Program)
			}
		}
	}
	if blocked := i.judge(ctx, &facts, cfg); blocked != "" && i.start {
		return fmt.Errorf("%s, and nothing has changed (%s)", blocked, orElse(strings.Join(i.report.Commands, "; "), "webknock init shows what was found"))
	}
	if !there && i.write {
		if err := i.save(text, user); err != nil {
			return err
		}
		i.report.Result = "written"
	}
	i.next(&facts)
	if !i.start {
		return i.print(c.OutOrStdout())
	}
	return i.begin(ctx, c.OutOrStdout(), &facts, cfg)
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// pathBytes is how many random bytes each of three paths has: 144 bits together.
const pathBytes = 6

// mayStart reports why webknock cannot be started here under a trial.
func (i *initialisation) mayStart(ctx context.Context, f *setup.Facts) error {
	if _, err := i.api().Status(ctx); !errors.Is(err, admin.ErrNoDaemon) {
		if err == nil {
			err = errors.New("webknock runs already")
		}
		return fmt.Errorf("%w (webknock reload --confirm 2m tries a changed configuration)", err)
	}
	if os.Geteuid() != 0 {
		return errors.New("only root can start webknock (sudo webknock init --start)")
	}
	if !f.Systemd {
		return nil
	}
	if i.configFile != defaultConfig {
		return fmt.Errorf("%s reads %s and no other file (webknock init --config %s --write, then webknock serve --config %s --confirm 2m)", daemonUnit, defaultConfig, i.configFile, i.configFile)
	}
	if _, running := pendingTrial(i.api().Socket); running {
		return errors.New("an earlier trial has not ended yet (webknock confirm, or wait)")
	}
	return startable(ctx)
}

// describe reports what was found.
func (i *initialisation) describe(f *setup.Facts) {
	r := i.report
	for _, port := range f.SSHPorts() {
		var at []string
		program := ""
		for _, s := range f.SSH {
			if s.Address.Port() != port {
				continue
			}
			at = append(at, s.Address.String())
			switch program = s.Program; program {
			case "":
				program = "a program that only root may know"
			case "systemd":
				program = "systemd, for the SSH server,"
			}
		}
		r.found("ssh", fmt.Sprintf("%s listens at %s", program, strings.Join(at, " and ")))
	}
	if f.Session.Text != "" {
		r.found("you", fmt.Sprintf("come from %s, to %s; this session goes on", f.Session.Client.Addr(), f.Session.Server))
	} else {
		r.found("you", "come by no SSH session that is known")
	}
	for _, port := range []uint16{80, 443} {
		if s := f.At(port); len(s) > 0 {
			r.found("web", fmt.Sprintf("%s has port %d", orElse(s[0].Program, "a program that only root may know"), port))
		}
	}
	if f.UFW {
		r.found("firewall", "ufw is enabled")
	}
	if f.Firewalld {
		r.found("firewall", "firewalld is running, with the default zone "+f.Zone)
	}
	if f.Docker {
		r.found("firewall", "Docker is running: the ports that it publishes stay open, unless a door has them")
	}
}

// compose makes the text of the configuration, and with it what it means.
func (i *initialisation) compose(p *setup.Plan) (text []byte, cfg *config.Config, user *config.User, err error) {
	text = []byte(p.Config())
	if p.User == "" {
		cfg, err = config.Parse(i.configFile, text)
	} else {
		user = &config.User{Name: p.User, File: beside(i.configFile, p.User+".totp", ""), Secret: make(config.Secret, secretSize)}
		rand.Read(user.Secret) // never fails
		text, cfg, err = config.WithUser(i.configFile, text, *user)
	}
	if err != nil {
		err = fmt.Errorf("make a configuration: %w", err)
	}
	return text, cfg, user, err
}

// profileName is what the profile is called on the client.
const profileName = "home"

// client reports what a client needs.
func (i *initialisation) client(p *setup.Plan, cfg *config.Config) error {
	draft, err := enrolment{cfg: cfg, notes: io.Discard}.draft("ssh", p.User, []string{p.Server})
	if err != nil {
		return err
	}
	text, err := draft.Text()
	if err != nil {
		return err
	}
	profile, err := client.Parse("the profile", text)
	if err != nil {
		return err
	}
	var lines bytes.Buffer
	if err := client.SSHConfig(&lines, profile, profileName, profileName); err != nil {
		return err
	}
	i.report.Client = &clientSide{Server: p.Server, Profile: string(text), Curl: p.Curl(), SSH: p.SSHLine(), SSHConfig: lines.String()}
	return nil
}

// anyone is a client of the internet, if it is not known from where the administrator
// comes. Over IPv6 a host need not have any.
var anyone = netip.MustParseAddr("1.2.3.4")

// judge asks the doctor whether the administrator's knocks, and a session with a grant,
// get through what else filters on this host. It returns what does not.
func (i *initialisation) judge(ctx context.Context, f *setup.Facts, cfg *config.Config) (blocked string) {
	from := anyone
	if f.Session.Text != "" {
		from = f.Session.Client.Addr()
	}
	for _, finding := range doctor.Examine(ctx, doctor.Options{Config: cfg, API: i.api(), From: from}).Findings {
		switch finding.Check {
		case "clock", "legacy", "kernel":
			i.report.found(finding.Check, finding.Detail)
			continue
		case "listener":
			if strings.HasPrefix(finding.Subject, "127.") || strings.HasPrefix(finding.Detail, "nothing listens") {
				continue // yet
			}
		case "passes":
		default:
			continue
		}
		if finding.Status == doctor.OK {
			continue
		}
		i.report.found("firewall", finding.Check+" "+finding.Subject+" "+finding.Family+": "+finding.Detail)
		subject := finding.Subject[strings.LastIndexAny(finding.Subject, " :")+1:]
		port, _ := strconv.ParseUint(strings.TrimSuffix(subject, "/tcp"), 10, 16)
		if finding.Status != doctor.Fail && !strings.Contains(finding.Detail, " stops ") {
			continue // the doctor cannot tell, and nor can init
		}
		for _, command := range f.Allow(uint16(port), finding.Detail) {
			// What is there already moves to the end: a reload comes last.
			before := slices.DeleteFunc(i.report.Commands, func(c string) bool { return c == command })
			i.report.Commands = append(before, command)
		}
		if finding.Status == doctor.Fail && blocked == "" {
			blocked = "another firewall keeps clients from port " + strings.TrimSuffix(subject, "/tcp")
		}
	}
	return blocked
}

// hasKeys reports whether a configuration says anything. A file with comments alone, as
// packages bring it, says nothing, and so does one that is not there.
func hasKeys(file string) (bool, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the configuration: %w", err)
	}
	var document yaml.Node
	err = yaml.NewDecoder(bytes.NewReader(text)).Decode(&document)
	return !errors.Is(err, io.EOF), nil
}

// next says what is to be done next.
func (i *initialisation) next(f *setup.Facts) {
	var options string
	if i.configFile != defaultConfig {
		options += " --config " + i.configFile
	}
	start := "webknock init --start"
	if !f.Systemd || i.configFile != defaultConfig {
		start = fmt.Sprintf("webknock serve%s --confirm %v", options, shortTime(i.trial))
	}
	switch {
	case i.start:
	case i.report.Result == "written":
		i.report.Next = start
	default:
		if i.wishes.Host != "" {
			options += " --host " + i.wishes.Host
		}
		if i.wishes.Port != 0 {
			options += fmt.Sprintf(" --port %d", i.wishes.Port)
		}
		if i.wishes.User != "" {
			options += " --user " + i.wishes.User
		}
		i.report.Next = "webknock init" + options + " --write"
		if f.Systemd && i.configFile == defaultConfig && i.report.Site == nil {
			i.report.Next += ", or at once webknock init" + options + " --start"
		}
	}
}

// shortTime writes a duration without zeros at the end, like 2m.
func shortTime(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// begin starts webknock under a trial, and waits until that is over.
func (i *initialisation) begin(ctx context.Context, out io.Writer, f *setup.Facts, cfg *config.Config) error {
	if !f.Systemd {
		t := trial{Socket: i.api().Socket, Session: f.Session.Text, Until: time.Now().Add(time.Hour)}
		if err := t.write(); err != nil {
			return err
		}
		i.report.Next = fmt.Sprintf("no systemd runs here, so start webknock by yourself: webknock serve --config %s --confirm %v\n"+
			"Then knock, log in by a new session, and there: webknock confirm --config %s", i.configFile, shortTime(i.trial), i.configFile)
		return i.print(out)
	}
	t, err := startOnTrial(ctx, i.app, i.trial, f.Session)
	if err != nil {
		return fmt.Errorf("%s is written; webknock could not be started, and the firewall and the units are as they were: %w", i.configFile, err)
	}
	i.report.Result, i.report.ConfirmBy = "trial", &t.Until
	i.report.Next = fmt.Sprintf("until %s: knock, log in by a new session, and there: webknock confirm\n"+
		"Otherwise all is undone. Leave this session open.", t.Until.Local().Format(time.TimeOnly))
	if err := i.print(out); err != nil || i.output == "json" {
		return err
	}
	fmt.Fprintf(out, "\nWaiting; the trial goes on without this, too.\n")
	t, err = t.end(ctx, time.Until(t.Until)+2*trialSlack)
	switch {
	case err != nil:
		return fmt.Errorf("how the trial has ended is not known: %w (systemctl status webknock-trial)", err)
	case t.Result != trialConfirmed:
		return errors.New(t.Text)
	}
	_, err = fmt.Fprintln(out, t.Text)
	return err
}

// save writes the configuration and the user's secret, or neither.
func (i *initialisation) save(text []byte, user *config.User) (err error) {
	var undo []func() error
	defer func() {
		for _, f := range slices.Backward(undo) {
			if err != nil {
				err = errors.Join(err, f())
			}
		}
	}()
	uid, gid, note := daemonUser()
	if note != "" {
		i.report.found("user", note)
	}
	dir := filepath.Dir(i.configFile)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
		undo = append(undo, func() error { return os.Remove(dir) })
		if err := os.Chown(dir, -1, gid); err != nil {
			return err
		}
	}
	if user != nil {
		if err := writeSecret(*user, uid, gid); err != nil {
			return err
		}
		undo = append(undo, func() error { return os.Remove(user.File) })
	}
	before, err := os.ReadFile(i.configFile)
	switch {
	case err == nil:
		undo = append(undo, func() error { return atomicfile.Replace(i.configFile, before) })
		err = atomicfile.Replace(i.configFile, text)
	case errors.Is(err, fs.ErrNotExist):
		if err = atomicfile.Create(i.configFile, text, -1, -1); err == nil {
			undo = append(undo, func() error { return os.Remove(i.configFile) })
		}
	}
	if err != nil || gid < 0 {
		return err
	}
	return errors.Join(os.Chown(i.configFile, 0, gid), os.Chmod(i.configFile, 0o640))
}
