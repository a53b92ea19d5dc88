package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show on one screen whether all is well, and who is in",
		Long: "status shows the state of the daemon and what to do about its problems; listeners, doors with\n" +
			"who may pass them for how long, sequences, clients in progress, bans, and what was lost.\n" +
			"webknock top shows the same live.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.api().Status(c.Context())
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			if a.output == "json" {
				return printJSON(w, s)
			}
			view := statusView{Status: s, now: time.Now(), colours: tty.ColoursOf(w, os.Getenv)}
			if err := view.ask(c.Context(), a.api()); err != nil {
				return err
			}
			_, err = io.WriteString(w, strings.Join(view.lines(), "\n")+"\n")
			return err
		},
	}
}

// A statusView is what status shows to people.
type statusView struct {
	admin.Status
	grants  []admin.Grant
	clients []admin.Client
	bans    []admin.Ban
	now     time.Time
	colours tty.Colours
}

// How many of each are shown. Those who want all have a command that lists them.
const (
	shownGrants  = 3 // of each door
	shownClients = 3
	shownBans    = 2
)

// ask has the daemon tell who there is, where anybody is.
func (v *statusView) ask(ctx context.Context, api admin.API) error {
	if v.Grants > 0 {
		all, err := api.Grants(ctx)
		if err != nil {
			return err
		}
		v.grants = all.Grants
	}
	if v.Clients > 0 {
		all, err := api.Clients(ctx)
		if err != nil {
			return err
		}
		v.clients = all.Clients
	}
	if v.Shield.Bans > 0 {
		all, err := api.Bans(ctx)
		if err != nil {
			return err
		}
		v.bans = all.Bans
	}
	return nil
}

// lines returns the screen.
func (v *statusView) lines() []string {
	lines := v.header()
	for _, part := range [][]string{v.listenerLines(), v.doorLines(), v.sequenceLines(), v.footer()} {
		lines = append(append(lines, ""), part...)
	}
	return lines
}

func (v *statusView) header() (lines []string) {
	state := v.colours.Green(v.State)
	if v.State != admin.OK {
		state = v.colours.Red(v.State)
	}
	lines = append(lines, fmt.Sprintf("webknock %s: %s, up %s (since %s)", tty.Clean(v.Version), state, tty.Long(v.now.Sub(v.StartedAt)), v.StartedAt.Local().Format(time.DateTime)))
	for _, problem := range v.Problems {
		what, todo := tty.Problem(tty.Clean(problem))
		for i, line := range tty.Wrap("problem: "+what, lineWidth-2) {
			lines = append(lines, indentAfterFirst(i)+v.colours.Red(line))
		}
		for i, line := range tty.Wrap("to do: "+todo, lineWidth-4) {
			lines = append(lines, "  "+indentAfterFirst(i)+line)
		}
	}
	if v.ConfirmBy != nil {
		lines = append(lines, v.colours.Yellow(fmt.Sprintf("undone in %s, at %s, unless webknock confirm follows", tty.Left(v.ConfirmBy.Sub(v.now)), tty.Clock(*v.ConfirmBy, v.now))))
	}
	guard := v.colours.Yellow("not guarded")
	if v.Firewall.Guarded {
		guard = v.colours.Green("guarded")
	}
	return append(lines, fmt.Sprintf("firewall %s, mode %s: doors are %s", v.Firewall.Backend, v.Firewall.Mode, guard))
}

func indentAfterFirst(i int) string {
	if i == 0 {
		return ""
	}
	return "  "
}

func (v *statusView) listenerLines() []string {
	rows := [][]string{{"LISTENER", "TLS", "COVER", "OPEN", "KNOCKS"}}
	for _, l := range v.Listeners {
		address := l.Address
		if _, port, _ := strings.Cut(l.Bound, "]:"); l.Bound != address && l.Bound != "" && ":"+port != address {
			address += " (" + l.Bound + ")"
		}
		tls := "no"
		if l.TLS {
			tls = "yes"
		}
		rows = append(rows, []string{tty.Clean(address), tls, tty.Clean(l.Cover), strconv.Itoa(l.Connections), strconv.FormatUint(l.Knocks, 10)})
	}
	return v.table("no listeners", rows)
}

// doorLines has the grants of each door below it.
func (v *statusView) doorLines() []string {
	rows := [][]string{{"DOOR", "GRANTS", "TTL", "PORTS"}}
	for _, d := range v.Doors {
		ttl := tty.Seconds(d.TTL)
		rows = append(rows, []string{tty.Clean(d.Name), fmt.Sprintf("%d of %d", d.Grants, d.MaxGrants), ttl, tty.Clean(strings.Join(d.Ports, " "))})
	}
	if len(v.Doors) == 0 {
		return []string{"no doors"}
	}
	all := tty.TableRows(rows, lineWidth)
	lines := v.heading(all[0])
	for i, d := range v.Doors {
		lines = append(append(lines, all[i+1]...), v.grantLines(d)...)
	}
	return lines
}

// grantLines says who may pass a door, and how long. Those who have long come first.
func (v *statusView) grantLines(d admin.Door) (lines []string) {
	grants := slices.DeleteFunc(slices.Clone(v.grants), func(g admin.Grant) bool { return g.Door != d.Name })
	slices.SortStableFunc(grants, func(a, b admin.Grant) int { return b.ExpiresAt.Compare(a.ExpiresAt) })
	var rows [][]string
	for _, g := range grants[:min(len(grants), shownGrants)] {
		left := tty.Seconds(g.Remaining)
		rows = append(rows, []string{"  " + tty.Clean(g.Client), tty.Clean(admin.Whose(g.User, g.Sequence)), left + " left, until " + tty.Clock(g.ExpiresAt, v.now)})
	}
	lines = tty.Table(rows, lineWidth)
	if more := len(grants) - len(rows); more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more (webknock grants)", more))
	}
	return lines
}

func (v *statusView) sequenceLines() []string {
	rows := [][]string{{"SEQUENCE", "STEPS", "COMPLETIONS"}}
	for _, q := range v.Sequences {
		rows = append(rows, []string{tty.Clean(q.Name), strconv.Itoa(q.Steps), strconv.FormatUint(q.Completions, 10)})
	}
	return v.table("no sequences", rows)
}

// footer has what most hosts have little of, each on a line: clients in progress, bans,
// losses, processes.
func (v *statusView) footer() []string {
	var clients, bans, lost, processes []string
	for _, c := range v.clients[:min(len(v.clients), shownClients)] {
		clients = append(clients, fmt.Sprintf("%s %s %d/%d (%s left)", c.Client, c.Sequence, c.Step, c.Steps, tty.Left(c.ExpiresAt.Sub(v.now))))
	}
	for _, b := range v.bans[:min(len(v.bans), shownBans)] {
		bans = append(bans, fmt.Sprintf("%s (%s left)", b.Client, tty.Seconds(b.Remaining)))
	}
	for _, kind := range slices.Sorted(maps.Keys(v.Lost)) {
		if n := v.Lost[kind]; n > 0 {
			lost = append(lost, fmt.Sprintf("%d %s", n, strings.ReplaceAll(kind, "_", " ")))
		}
	}
	for _, p := range v.Processes {
		text := fmt.Sprintf("%s %d as %s", p.Name, p.PID, p.User)
		if len(p.Confined) > 0 {
			text += ", confined (" + strings.Join(p.Confined, " ") + ")"
		}
		processes = append(processes, strings.Join(append([]string{text}, p.Warnings...), "; "))
	}
	return tty.Table([][]string{
		{"in progress", listOf(clients, v.Clients, "clients")},
		{"banned", listOf(bans, v.Shield.Bans, "bans")},
		{"refused/lost", listOf(lost, len(lost), "")},
		{"processes", listOf(processes, len(processes), "")},
	}, lineWidth)
}

// listOf joins some of a number of things, all of which a command shows.
func listOf(some []string, all int, command string) string {
	if all == 0 {
		return "none"
	}
	if len(some) == 0 { // they have come meanwhile
		return strconv.Itoa(all)
	}
	if more := all - len(some); more > 0 {
		some = append(some, fmt.Sprintf("and %d more (webknock %s)", more, command))
	}
	return tty.Clean(strings.Join(some, ", "))
}

// table lays out rows under their heading. Without rows it is the line none.
func (v *statusView) table(none string, rows [][]string) []string {
	if len(rows) == 1 {
		return []string{none}
	}
	all := tty.TableRows(rows, lineWidth)
	return append(v.heading(all[0]), slices.Concat(all[1:]...)...)
}

func (v *statusView) heading(lines []string) []string {
	return []string{v.colours.Bold(strings.Join(lines, " "))}
}
