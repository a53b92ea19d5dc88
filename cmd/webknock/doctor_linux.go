package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/internal/doctor"
	"webknock/internal/keeper"
)

func newDoctor(a *app) *cobra.Command {
	var from address
	var probe string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Judge whether doors are really shut, and really open to a grant",
		Long: "doctor reads the kernel's whole ruleset and follows a stranger's packet, and one with a grant,\n" +
			"to every door. Where rules depend on what it cannot know it says so. It changes nothing, save\n" +
			"with --probe, which tries a door with packets from a throw-away network namespace, with a\n" +
			"grant of a minute for it, and removes both. It exits 1 only if something fails.\n" +
			"If the configuration has errors, they are findings, and the doors of the one that was in force\n" +
			"last are judged.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, wrong := a.configToJudge()
			o := doctor.Options{Config: cfg, API: a.api(), From: from.Addr}
			var report doctor.Report
			var err error
			if probe != "" {
				report, err = doctor.Probe(c.Context(), o, probe)
			} else {
				report = doctor.Examine(c.Context(), o)
			}
			if err != nil {
				return err
			}
			report.Findings = append(wrong, report.Findings...)
			if len(wrong) > 0 {
				report.Status = doctor.Fail
			}
			if a.output == "json" {
				err = printJSON(c.OutOrStdout(), report)
			} else {
				var rows [][]string
				for _, f := range report.Findings {
					rows = append(rows, []string{string(f.Status), f.Check, f.Subject, f.Family, f.Detail})
				}
				err = printTable(c.OutOrStdout(), "nothing to look at", []string{"RESULT", "CHECK", "OF", "FAMILY", "DETAIL"}, rows)
			}
			if err == nil && report.Status == doctor.Fail {
				err = fmt.Errorf("not all is well")
			}
			return err
		},
	}
	c.Flags().Var(&from, "from", "judge for a client of this `ADDRESS` (default one of the internet, for IPv4 and IPv6)")
	c.Flags().StringVar(&probe, "probe", "", "try a `DOOR` with packets, as root")
	return c
}

// configToJudge returns the configuration whose doors are judged, and what is
// wrong with the file if that is not the file's: then it is the one that was in
// force last or, if none is kept, one without doors.
func (a *app) configToJudge() (*config.Config, []doctor.Finding) {
	cfg, broken := config.Load(a.configFile)
	if broken == nil {
		broken = keeper.Undone(cfg)
	}
	if broken == nil {
		return cfg, nil
	}
	var wrong []doctor.Finding
	say := func(status doctor.Status, subject, text string) {
		wrong = append(wrong, doctor.Finding{Check: "configuration", Subject: subject, Status: status, Detail: text})
	}
	for line := range strings.Lines(broken.Error()) {
		say(doctor.Fail, a.configFile, strings.TrimSpace(line))
	}
	last, lacks, err := keeper.LastGood(a.configFile, config.Peek(a.configFile).State)
	if err == nil && last != nil {
		say(doctor.Warning, "last good", "what follows is about the configuration that was in force last")
		for _, lack := range lacks {
			say(doctor.Warning, "last good", lack)
		}
		return last, wrong
	}
	detail := "no configuration was in force before, so that no door is judged"
	if err != nil {
		detail = fmt.Sprintf("what was in force last cannot be read, so that no door is judged: %v", err)
	}
	say(doctor.Warning, "last good", detail)
	basics := config.Peek(a.configFile)
	return &config.Config{File: a.configFile, State: basics.State, Firewall: config.Firewall{Backend: config.BackendNFTables, Table: basics.Table}}, wrong
}

// address is a flag that holds an IP address.
type address struct{ netip.Addr }

func (a *address) String() string { return "" }
func (a *address) Type() string   { return "ADDRESS" }

func (a *address) Set(text string) error {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return errors.New("not an IP address (like 192.0.2.7 or 2001:db8::7)")
	}
	a.Addr = addr.Unmap()
	return nil
}
