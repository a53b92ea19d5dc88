package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show whether all is well",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.api().Status(c.Context())
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			if a.output == "json" {
				return printJSON(w, s)
			}
			fmt.Fprintf(w, "webknock %s, up since %s: %s\n", s.Version, s.StartedAt.Local().Format(time.DateTime), s.State)
			for _, problem := range s.Problems {
				fmt.Fprintf(w, "problem: %s\n", problem)
			}
			if s.ConfirmBy != nil {
				fmt.Fprintf(w, "undone unless webknock confirm follows by %s\n", s.ConfirmBy.Local().Format(time.TimeOnly))
			}
			fmt.Fprintf(w, "firewall %s, mode %s\n", s.Firewall.Backend, s.Firewall.Mode)
			fmt.Fprintf(w, "%d clients in progress, %d grants\n\n", s.Clients, s.Grants)
			var rows [][]string
			for _, l := range s.Listeners {
				rows = append(rows, []string{l.Address, strconv.FormatBool(l.TLS), l.Cover})
			}
			printTable(w, "no listeners", []string{"LISTENER", "TLS", "COVER"}, rows)
			rows = nil
			for _, d := range s.Doors {
				rows = append(rows, []string{d.Name, strings.Join(d.Ports, " "), strconv.Itoa(d.Grants)})
			}
			fmt.Fprintln(w)
			printTable(w, "no doors", []string{"DOOR", "PORTS", "GRANTS"}, rows)
			rows = nil
			for _, q := range s.Sequences {
				rows = append(rows, []string{q.Name, strconv.Itoa(q.Steps), strconv.FormatUint(q.Completions, 10)})
			}
			fmt.Fprintln(w)
			return printTable(w, "no sequences", []string{"SEQUENCE", "STEPS", "COMPLETIONS"}, rows)
		},
	}
}
