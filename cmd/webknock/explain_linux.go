package main

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

func newExplain(a *app) *cobra.Command {
	var reveal bool
	c := &cobra.Command{
		Use:   "explain ADDRESS",
		Short: "Show what became of a client's latest knocks, and why",
		Long: "explain shows the latest knocks of a client, up to 16, with what each did and why; how far the\n" +
			"client is, its grants, its ban, and what to do next. The daemon keeps knocks in memory alone.\n" +
			"Root may see the paths with --reveal.",
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(1)(c, args); err != nil {
				return err
			}
			if address, err := netip.ParseAddr(args[0]); err != nil || address.Zone() != "" {
				return fmt.Errorf("%q is not an IP address (like 192.0.2.7 or 2001:db8::7)", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			e, err := a.api().Explain(c.Context(), netip.MustParseAddr(args[0]), reveal)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), e)
			}
			return printExplanation(c.OutOrStdout(), e, time.Now())
		},
	}
	c.Flags().BoolVar(&reveal, "reveal", false, "show the paths of the knocks too (root alone)")
	return c
}

// lineWidth is how wide what is printed for people may be, in characters.
const lineWidth = 80

// printExplanation writes an explanation for people.
func printExplanation(w io.Writer, e admin.Explanation, now time.Time) error {
	var lines []string
	for _, p := range e.Progress {
		lines = append(lines, fmt.Sprintf("in progress: %s, %d of %d steps, %s left for the next", p.Sequence, p.Step, p.Steps, tty.Left(p.ExpiresAt.Sub(now))))
	}
	for _, g := range e.Grants {
		lines = append(lines, fmt.Sprintf("granted: door %s for another %s (grant %s)", g.Door, tty.Seconds(g.Remaining), g.ID))
	}
	if e.BannedUntil != nil {
		lines = append(lines, "banned until "+tty.Clock(*e.BannedUntil, now))
	}
	if len(lines) > 0 {
		lines = append(lines, "")
	}
	lines = append(lines, knockLines(e.Knocks, now)...)
	lines = append(lines, "")
	lines = append(lines, tty.Wrap(e.Advice, lineWidth)...)
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

// knockLines returns a table of knocks, whose last column is wrapped.
func knockLines(knocks []admin.Knock, now time.Time) []string {
	if len(knocks) == 0 {
		return []string{"no knocks"}
	}
	rows := [][]string{{"TIME", "LISTENER", "OUTCOME", "WHY"}}
	for _, k := range knocks {
		why := tty.Clean(k.Why)
		if k.Sequence != "" {
			why = k.Sequence + ": " + why
		}
		if k.Path != "" {
			why += "; path " + strconv.Quote(k.Path)
		}
		rows = append(rows, []string{tty.Clock(k.At, now), tty.Clean(k.Listener), k.Outcome, why})
	}
	return tty.Table(rows, lineWidth)
}
