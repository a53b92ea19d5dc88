package tty

import (
	"regexp"
	"strings"
)

// advice says what to do about problems that do not say so themselves. The page has the
// same (httpd/admin/page/files/words.js).
var advice = []struct {
	about *regexp.Regexp
	todo  string
}{
	{regexp.MustCompile(`file on disk .* is not what runs|does without`), "mend the file (webknock check shows its errors), then run webknock reload"},
	{regexp.MustCompile(`repaired \d+ times|changes? .*table`), "stop what changes the table, or set firewall.owner: true"},
	{regexp.MustCompile(`not confirmed|was taken away|unguard`), "run webknock reload to guard the doors again, and webknock confirm if it asks for that"},
	{regexp.MustCompile(`certificate for .* yet`), "see why in the log (journalctl -u webknock); the domain must lead to this host, on port 80 or 443"},
	{regexp.MustCompile(`certificate|\.pem`), "put a valid certificate and its key in place: they are read again as soon as they change"},
	{regexp.MustCompile(`no space|read-only|disk|not remembered|cannot be written|history`), "look at the disk below the state directory: is it full, or read-only?"},
	{regexp.MustCompile(`labels of connections`), "load nf_conntrack with labels, or use a kernel that has them"},
	{regexp.MustCompile(`netlink|nftables|permission`), "run webknock doctor: it tries the doors, and says what stands in the way"},
}

const noAdvice = "see the log (journalctl -u webknock), and run webknock doctor"

var onlyLog = regexp.MustCompile(`\blog\b`)

// Problem splits a problem that the daemon reports into what is wrong and what to do. Most
// problems end with the latter, in brackets.
func Problem(text string) (what, todo string) {
	if what, todo, ok := cutBrackets(text); ok && !onlyLog.MatchString(todo) {
		return what, todo
	}
	for _, a := range advice {
		if a.about.MatchString(text) {
			return text, a.todo
		}
	}
	return text, noAdvice
}

// cutBrackets cuts the brackets off that a text ends with. They may have others inside.
func cutBrackets(text string) (before, inside string, ok bool) {
	body, ok := strings.CutSuffix(text, ")")
	if !ok {
		return "", "", false
	}
	depth := 1
	for i := len(body) - 1; i > 1; i-- {
		switch body[i] {
		case ')':
			depth++
		case '(':
			if depth--; depth == 0 {
				return body[:i-1], body[i+1:], body[i-1] == ' '
			}
		}
	}
	return "", "", false
}
