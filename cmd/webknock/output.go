package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// printJSON writes a value the way programs and people can read it.
func printJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(value)
}

// done writes what a command has done: text for people, or value for programs.
func (a *app) done(w io.Writer, text string, value any) error {
	if a.output == "json" {
		return printJSON(w, value)
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// A result is the JSON output of a command that only reports its success.
type result struct {
	Result string `json:"result"`
}

// printTable writes rows under a head. If there are no rows it writes the line none.
func printTable(w io.Writer, none string, head []string, rows [][]string) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}
