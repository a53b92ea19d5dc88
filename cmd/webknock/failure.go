package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// failure is an error of a command that was used rightly.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// exitCode returns with which code the program ends for an error.
func exitCode(err error) int {
	var failed failure
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &failed):
		return exitFailed
	}
	return exitUsage // cobra's own errors
}

// report writes the error of a command: for people, or as JSON for programs.
func report(w io.Writer, err error, asJSON bool) {
	if asJSON {
		printJSON(w, problemOf(err))
		return
	}
	fmt.Fprintln(w, forJournal(w, fmt.Sprintf("webknock: %v", err)))
}

// A problem is an error for programs.
type problem struct {
	Error  string   `json:"error"`            // what is wrong
	Hint   string   `json:"hint,omitempty"`   // what would be right
	Exit   int      `json:"exit"`             // the exit code
	Status int      `json:"status,omitempty"` // the HTTP status with which the daemon has refused
	Errors []detail `json:"errors"`           // of a configuration
}

// A detail is one error or warning of a configuration.
type detail struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // from 1
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func problemOf(err error) problem {
	p := problem{Exit: exitCode(err), Errors: []detail{}}
	text, ok := serverProblem(err, &p)
	if !ok {
		text = err.Error()
	}
	p.Error, p.Hint = splitHint(text)
	return p
}

// splitHint cuts the part in brackets off, with which messages end that say what
// would be right.
func splitHint(text string) (message, hint string) {
	if !strings.HasSuffix(text, ")") {
		return text, ""
	}
	depth := 0
	for i := len(text) - 1; i > 0; i-- {
		switch text[i] {
		case ')':
			depth++
		case '(':
			if depth--; depth == 0 && text[i-1] == ' ' {
				return text[:i-1], text[i+1 : len(text)-1]
			}
		}
	}
	return text, ""
}

// wantsJSON reports whether arguments ask for JSON, although they may have other
// errors.
func wantsJSON(args []string) bool {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.SetOutput(io.Discard)
	output := flags.StringP("output", "o", "", "")
	flags.BoolP("help", "h", false, "")
	flags.Parse(args)
	return *output == "json"
}
