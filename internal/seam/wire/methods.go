package wire

import (
	"webknock/internal/event"
	"webknock/internal/seam"
)

// kind names a method.
type kind uint8

// What the keeper asks of the front.
const (
	prepare kind = 1 + iota
	commit
	abort
	useCertificates
	useChallenges
	stop
	ping
	state
	watchKnocks
	clients
	adoptBans
	unban
	recent
)

// What the front asks of the keeper.
const (
	complete kind = 65 + iota
	ban
	knocks
	usedCodes
	recordCodes
)

// What the keeper asks of the process that runs commands.
const (
	useCommands kind = 129 + iota
	runCommand
	stopCommands
)

// commandTold is what that process tells the keeper.
const commandTold kind = 193

// A method is what is known of a kind.
type method struct {
	name             string
	ofKeeper         bool // the front asks it of the keeper
	notice           bool // it has no answer
	files            bool // descriptors go with it
	alone            bool // one at a time
	argument, result int  // the most bytes that each may have
}

const (
	kib = 1 << 10
	mib = 1 << 20

	small = 16 * kib // for what has no lists of its own
)

// methods are all there are. A configuration has bodies of covers, each up to 1 MiB. A
// completion has a request head of 8 KiB and is hardly longer. The codes of all users are
// recorded at once at the start: up to 1,024 tickets of some 50 bytes a user.
var methods = map[kind]method{
	prepare:         {name: "Prepare", files: true, argument: 1 << 30},
	commit:          {name: "Commit"},
	abort:           {name: "Abort"},
	useCertificates: {name: "UseCertificates", argument: 64 * mib},
	useChallenges:   {name: "UseChallenges", argument: 16 * mib},
	stop:            {name: "Stop"},
	ping:            {name: "Ping"},
	state:           {name: "State", result: 4 * mib},
	watchKnocks:     {name: "WatchKnocks", notice: true, argument: small},
	clients:         {name: "Clients", result: 32 * mib},
	recent:          {name: "Recent", argument: small, result: 64 * kib},
	adoptBans:       {name: "AdoptBans", argument: 16 * mib},
	unban:           {name: "Unban", argument: small},

	complete:    {name: "Complete", ofKeeper: true, notice: true, argument: 64 * kib},
	ban:         {name: "Ban", ofKeeper: true, notice: true, argument: 4 * kib},
	knocks:      {name: "Knocks", ofKeeper: true, notice: true, argument: seam.MaxKnocks * kib / 2},
	usedCodes:   {name: "UsedCodes", ofKeeper: true, result: 256 * mib},
	recordCodes: {name: "RecordCodes", ofKeeper: true, alone: true, argument: 16 * mib},

	useCommands:  {name: "UseCommands", alone: true, argument: 64 * mib},
	runCommand:   {name: "RunCommand", argument: 128 * kib, result: small},
	stopCommands: {name: "StopCommands", notice: true},
	commandTold:  {name: "CommandTold", ofKeeper: true, notice: true, argument: 4 * kib},
}

func (k kind) String() string { return methods[k].name }

// The arguments of methods that have several, in place of a value of their own.
type (
	// prepareArgs has the addresses of the sockets, whose descriptors go beside.
	prepareArgs struct {
		Configuration seam.Configuration
		Addresses     []string
	}
	useCertificatesArgs struct {
		Address string
		All     []seam.Certificate
	}
	knocksArgs struct {
		Knocks []event.Knock
		Missed uint64
	}
)
