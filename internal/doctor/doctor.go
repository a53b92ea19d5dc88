// Package doctor judges whether doors are really shut to a stranger, and really
// open to a client with a grant, by following packets through the kernel's whole
// ruleset (package nftsim). It never guesses: where rules depend on what it
// cannot know, it says so, and names the rule.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/user"
	"strings"

	"golang.org/x/sys/unix"

	"webknock/config"
	"webknock/firewall"
	"webknock/firewall/nft"
	"webknock/httpd/admin"
	"webknock/internal/doctor/nftsim"
)

// Status says how well something is.
type Status string

// What a finding may say.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Fail    Status = "fail"
)

// A Finding is one line of the doctor's.
type Finding struct {
	Check   string `json:"check"`   // what was looked at
	Subject string `json:"subject"` // of which door, listener or file
	Family  string `json:"family,omitempty"`
	Status  Status `json:"status"`
	Detail  string `json:"detail"`
}

// Report is all findings.
type Report struct {
	Status   Status    `json:"status"` // the worst
	Findings []Finding `json:"findings"`
}

// Options are what an examination is made with.
type Options struct {
	Config *config.Config
	API    admin.API  // of the daemon, if one runs
	From   netip.Addr // the stranger; zero: one from the internet for each family
}

// Strangers are ordinary addresses of the internet. Nothing is sent to them.
var strangers = []netip.Addr{netip.MustParseAddr("1.2.3.4"), netip.MustParseAddr("2a00::1:2:3:4")}

type exam struct {
	Options
	report   Report
	rules    *nftsim.Ruleset
	network  *network
	open     []socket
	noDaemon bool
}

func (x *exam) say(check, subject, family string, status Status, format string, args ...any) {
	x.report.Findings = append(x.report.Findings, Finding{check, subject, family, status, fmt.Sprintf(format, args...)})
}

// Examine makes a report. It changes nothing.
func Examine(ctx context.Context, o Options) Report {
	x := &exam{Options: o, report: Report{Findings: []Finding{}}}
	x.daemon(ctx)
	x.system()
	if x.kernel() {
		x.open = listening()
		for _, from := range x.from() {
			x.doors(from)
			x.listeners(from)
			x.sideways(from)
		}
		x.ruleset()
	}
	x.conclude()
	return x.report
}

// conclude sets the status of the report to that of its worst finding.
func (x *exam) conclude() {
	x.report.Status = OK
	for _, f := range x.report.Findings {
		if f.Status == Fail || f.Status == Warning && x.report.Status == OK {
			x.report.Status = f.Status
		}
	}
}

func (x *exam) from() []netip.Addr {
	if x.From.IsValid() {
		return []netip.Addr{x.From.Unmap()}
	}
	return strangers
}

func (x *exam) daemon(ctx context.Context) {
	s, err := x.API.Status(ctx)
	switch {
	case errors.Is(err, admin.ErrNoDaemon):
		x.noDaemon = true // what it means depends on whether there is a guard
	case err != nil:
		x.say("daemon", x.API.Socket, "", Warning, "%v", err)
	case s.State != admin.OK:
		x.say("daemon", x.API.Socket, "", Fail, "degraded: %s", strings.Join(s.Problems, "; "))
	default:
		x.say("daemon", x.API.Socket, "", OK, "webknock %s serves", s.Version)
	}
	x.processes(s.Processes)
}

// processes says what the part of the daemon that talks to strangers cannot do.
func (x *exam) processes(all []admin.Process) {
	for _, p := range all {
		for _, warning := range p.Warnings {
			x.say("process", p.Name, "", Warning, "%s", warning)
		}
		if len(p.Warnings) == 0 && p.Name != "keeper" {
			x.say("process", p.Name, "", OK, "runs as %s, confined: %s", p.User, strings.Join(p.Confined, ", "))
		}
	}
}

// kernel reads the ruleset.
func (x *exam) kernel() bool {
	var err error
	if x.rules, err = nftsim.Read(); err == nil {
		x.network, err = readNetwork()
	}
	if err != nil {
		hint := "run as root, or with CAP_NET_ADMIN"
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			hint = "modprobe nf_tables"
		}
		if x.noDaemon {
			x.say("daemon", x.API.Socket, "", Warning, "no daemon answers: nobody receives knocks")
		}
		x.say("kernel", "nf_tables", "", Fail, "the ruleset cannot be read: %v (%s)", err, hint)
		return false
	}
	there := x.rules.HasTable(x.table())
	if x.noDaemon {
		if there && x.Config.Firewall.Guard.Mode != firewall.Sets {
			x.say("daemon", x.API.Socket, "", Fail, "no daemon answers, and the guard is up: nobody can get in (start webknock serve, or take the guard away: webknock unguard)")
		} else {
			x.say("daemon", x.API.Socket, "", Warning, "no daemon answers: nobody receives knocks (start webknock serve)")
		}
	}
	if !there {
		x.say("guard", x.table().String(), "", Fail, "there is no such table: nothing is guarded (webknock serve, or webknock reload after an unguard)")
	} else {
		x.say("guard", x.table().String(), "", OK, "is there")
	}
	return true
}

func (x *exam) table() nftsim.TableID {
	return nftsim.TableID{Family: nftsim.INet, Name: x.Config.Firewall.Table}
}

func familyName(a netip.Addr) string {
	if a.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// packet returns a packet that comes in by a way.
func (w way) packet(from netip.Addr, protocol uint8, port uint16) nftsim.Packet {
	return nftsim.Packet{From: from, To: w.to, Protocol: protocol, Port: port, In: w.in}
}

// options are those to follow packets with from somebody who has a grant for a
// door; empty: for none.
func (x *exam) options(granted string) nftsim.Options {
	o := nftsim.Options{Host: x.network.Host, Assume: map[nftsim.SetID]bool{}, Watch: x.Config.Firewall.Guard.Mark}
	for _, d := range x.Config.Doors {
		for _, name := range nft.GrantSets(d) {
			o.Assume[nftsim.SetID{Table: x.table(), Name: name}] = d.Name == granted
		}
	}
	for _, name := range nft.SessionSets() {
		o.Assume[nftsim.SetID{Table: x.table(), Name: name}] = false
	}
	return o
}

// ours reports whether a rule is one of webknock's own.
func (x *exam) ours(p *nftsim.Place) bool { return p != nil && p.Chain.Table == x.table() }

// group warns if there is no group for the admin socket.
func (x *exam) group() {
	if _, err := user.LookupGroup(admin.Group); err != nil {
		x.say("group", admin.Group, "", Warning, "there is no such group; only root and the daemon's user may use the admin socket (groupadd --system %s)", admin.Group)
	}
}
