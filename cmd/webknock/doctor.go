package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/internal/doctor"
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
			"grant of a minute for it, and removes both. It exits 1 only if something fails.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(a.configFile)
			if err != nil {
				return err
			}
			o := doctor.Options{Config: cfg, API: a.api(), From: from.Addr}
			var report doctor.Report
			if probe != "" {
				report, err = doctor.Probe(c.Context(), o, probe)
			} else {
				report = doctor.Examine(c.Context(), o)
			}
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = printJSON(c.OutOrStdout(), report)
			} else {
				var rows [][]string
				for _, f := range report.Findings {
					rows = append(rows, []string{string(f.Status), f.Check, f.Subject, f.Family, f.Detail})
				}
				err = printTable(c.OutOrStdout(), "nothing to look at", []string{"", "CHECK", "OF", "FAMILY", ""}, rows)
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
