package doctor

import (
	"slices"
	"strings"

	"webknock/firewall"
	"webknock/internal/doctor/nftsim"
)

// ruleset looks at rules by themselves, whatever gets to them.
func (x *exam) ruleset() {
	x.marksTooEarly()
	x.tproxies()
	x.flowtables()
	if names := x.rules.NotFollowed; len(names) > 0 {
		x.say("ruleset", strings.Join(names, ", "), "", Warning, "not looked at: what ingress hooks and bridges drop does not get to a door")
	}
}

// marksTooEarly finds rules that ask for the mark before it is there: grants
// are marked at input and forward, after all of prerouting.
func (x *exam) marksTooEarly() {
	mark := x.Config.Firewall.Guard.Mark
	for _, c := range x.rules.Chains {
		if c.Table == x.table() && c.Base != nil && c.Base.Hook == nftsim.Prerouting && c.Base.Type == "filter" {
			return // a guard of an earlier version, which marks at prerouting
		}
	}
	for p := range x.rules.Rules(nftsim.Prerouting) {
		if !x.ours(p) && p.MatchesMark(mark) && !x.reached(p) {
			x.say("mark", p.Chain.Table.String(), "", Warning, "%s asks for the mark 0x%x at prerouting, where no packet has it yet: granted packets are marked at input and forward (move the rule there)", p, mark)
		}
	}
}

// reached reports whether packets get to a rule at input or forward as well.
func (x *exam) reached(p *nftsim.Place) bool {
	for _, hook := range []nftsim.Hook{nftsim.Input, nftsim.Forward} {
		for q := range x.rules.Rules(hook) {
			if q.Chain == p.Chain {
				return true
			}
		}
	}
	return false
}

// tproxies finds rules that hand packets to a guarded port: their own port
// stays, and the guard goes by that.
func (x *exam) tproxies() {
	for p := range x.rules.Rules(nftsim.Prerouting) {
		port, ok := p.TProxy()
		if !ok {
			continue
		}
		for _, protocol := range []firewall.Protocol{firewall.TCP, firewall.UDP} {
			d := x.doorAt(protocol, port)
			subject := firewall.Ports{Protocol: protocol, First: port, Last: port}.String()
			said := func(f Finding) bool { return f.Check == "redirect" && strings.Contains(f.Detail, p.String()) }
			if d != nil && !slices.ContainsFunc(x.report.Findings, said) {
				x.say("redirect", d.Name+" "+subject, "", Fail, "%s hands packets to a guarded port; they keep the port that was asked for, and the guard does not see this one (let the door name the other port, too)", p)
			}
		}
	}
}

// flowtables finds rules that give sessions to a flowtable.
func (x *exam) flowtables() {
	for p := range x.rules.Rules(nftsim.Forward) {
		if name, ok := p.Offloads(); ok {
			x.flowtable(name, p.String())
		}
	}
}

// flowtable warns of doors whose sessions a flowtable takes over.
func (x *exam) flowtable(name, rule string) {
	var cut []string
	for _, d := range x.Config.Doors {
		if d.Established == firewall.Cut {
			cut = append(cut, d.Name)
		}
	}
	if cut != nil {
		x.say("flowtable", name, "", Warning, "%s gives sessions that are sent on to a flowtable, and their packets pass no rule after that: the end of a grant cuts those through %s only when the daemon deletes the flow, and not while it is down", rule, strings.Join(cut, ", "))
	} else {
		x.say("flowtable", name, "", OK, "%s gives sessions that are sent on to a flowtable; doors here keep sessions anyway", rule)
	}
}
