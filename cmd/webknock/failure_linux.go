package main

import (
	"cmp"
	"errors"
	"regexp"
	"strconv"
	"strings"

	"webknock/config"
	"webknock/httpd/admin"
)

// serverProblem fills in what an error of the configuration or of the daemon
// says beside its text. It reports false for any other error.
func serverProblem(err error, p *problem) (text string, ok bool) {
	var wrong config.Errors
	var refused *admin.Problem
	switch {
	case errors.As(err, &wrong):
		p.Errors = details(wrong)
		text = "the configuration has errors"
		if before, _, found := strings.Cut(err.Error(), wrong.Error()); found && strings.TrimSpace(before) != "" {
			text = strings.TrimSuffix(strings.TrimSpace(before), ":")
		}
		return text, true
	case errors.As(err, &refused):
		p.Status = refused.Status
		for _, line := range refused.Errors {
			p.Errors = append(p.Errors, detailOf(line))
		}
		return cmp.Or(refused.Detail, refused.Title), true
	}
	return "", false
}

func details(all config.Errors) []detail {
	list := make([]detail, len(all))
	for i, e := range all {
		list[i] = detail{File: e.File, Line: e.Line, Column: e.Col, Key: e.Key}
		list[i].Message, list[i].Hint = splitHint(e.Msg)
	}
	return list
}

var configLine = regexp.MustCompile(`^(.*?):(?:(\d+):(\d+):)? (?:([a-z0-9_.\[\]]+): )?(.*)$`)

// detailOf is what a line stands for in which the daemon tells an error.
func detailOf(line string) detail {
	m := configLine.FindStringSubmatch(line)
	if m == nil {
		return detail{Message: line}
	}
	d := detail{File: m[1], Key: m[4]}
	d.Line, _ = strconv.Atoi(m[2])
	d.Column, _ = strconv.Atoi(m[3])
	d.Message, d.Hint = splitHint(m[5])
	return d
}
