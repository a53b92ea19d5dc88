// Package config reads webknock's configuration file into one validated Config.
// Start with Load.
//
// A file goes through five stages:
//
//  1. The file becomes one kind of tree, whether it is YAML, JSON or TOML. Each value
//     in it knows its line and column. Aliases are written out.
//  2. viper merges defaults, the file and the environment (WEBKNOCK_…).
//  3. mapstructure decodes the result into the structs of the sections. A hook
//     of ours reads each value by the type and the tags of its field.
//  4. validate, a function of each section, checks the values of the section.
//  5. check compares the sections with each other.
//
// No stage stops at its first error. Load reports all errors of a file together,
// each with its place, and only one for one mistake: a check that needs a value
// with an error of its own is left out.
//
// Each section has a file with its struct, its defaults and its validation:
// listeners.go (with tls.go and cover.go), clients.go, doors.go, sequences.go
// (with steps.go and commands.go), users.go, firewall.go, shield.go, admin.go,
// log.go, history.go, notify.go and state.go. A new key is a new field there. These tags of
// a field say what is valid:
//
//	mapstructure:"ttl"      the key
//	required:"like ssh"     the key must be there; says what would be right
//	limits:"1s..24h"        the least and the most, of numbers and durations
//	words:"keep cut"        the only words that are valid
//	is:"name"               the form of a text, one of forms
//
// The JSON Schema, docs/webknock.schema.json, is generated from the same structs,
// tags and defaults: run go generate after a change. A test fails if the schema
// is out of date.
//
// Restore decodes a configuration that was in force before, after files that it names
// may have been lost. Peek finds the daemon by a file that may have any error. WithUser
// and WithoutUser edit a file.
//
// # Why the tree stays beside viper
//
// viper changes map keys to lower case, also inside lists, splits them at dots,
// and knows no positions. So viper sees the sections alone. Their keys are
// compared with the structs before viper sees them, so that Listeners is an
// unknown key and does not become listeners. A list reaches viper as one opaque
// value, and names in query and environment keep their case.
//
// mapstructure reports an unknown key or a wrong type without its place and
// without what would be right, and takes a key that is there twice. So the hook
// hands it only what is right by its shape, and reports the rest itself.
package config

import (
	"reflect"

	"webknock/firewall"
	"webknock/internal/notice"
)

//go:generate go test -run TestTheSchemaIsUpToDate . -update

// Config is a whole, valid configuration. Do not change it.
type Config struct {
	File      string
	Listeners []Listener
	Clients   Clients
	Doors     []firewall.Door
	Sequences []Sequence
	Users     []User
	Firewall  Firewall
	Shield    Shield
	Admin     Admin
	Log       Log
	History   History
	State     string          // directory
	Notify    []notice.Target // those of notify and those of all sequences
	Warnings  Errors          // what is allowed but rarely meant
	Source    *Source         // nil: not read from a file
	files     []namedFile     // files that the configuration names and the daemon reads
}

// document is the configuration as it stands in a file: a field for each section.
type document struct {
	Listeners []Listener        `mapstructure:"listeners" required:"at least one, like - address: \":8080\"; webknock init writes a whole file"`
	Clients   Clients           `mapstructure:"clients"`
	Doors     []doorSection     `mapstructure:"doors"`
	Sequences []sequenceSection `mapstructure:"sequences" required:"at least one, with name, steps and opens"`
	Users     []User            `mapstructure:"users"`
	Firewall  firewallSection   `mapstructure:"firewall"`
	Shield    shieldSection     `mapstructure:"shield"`
	Admin     Admin             `mapstructure:"admin"`
	Log       Log               `mapstructure:"log"`
	History   History           `mapstructure:"history"`
	Notify    []target          `mapstructure:"notify"`
	State     string            `mapstructure:"state" is:"path"`
}

// defaults returns the defaults of the sections that are not lists. The items of
// lists set theirs by setDefaults.
func defaults() document {
	return document{
		Clients:  defaultClients(),
		Firewall: defaultFirewall(),
		Shield:   defaultShield(),
		Admin:    defaultAdmin(),
		Log:      defaultLog(),
		History:  defaultHistory(),
		State:    defaultState,
	}
}

// validate checks the sections, each by itself and then together, and returns
// what they configure.
func (doc *document) validate(d *decoder) *Config {
	d.notEmpty("listeners", len(doc.Listeners))
	d.notEmpty("sequences", len(doc.Sequences))
	cfg := &Config{Clients: doc.Clients, Admin: doc.Admin, Log: doc.Log, History: doc.History, State: doc.State}
	cfg.Listeners = d.validateListeners(doc.Listeners)
	doors := newNames("door", "doors")
	cfg.Doors = d.validateDoors(doc.Doors, doors)
	users := newNames("user", "users")
	cfg.Users = d.validateUsers(doc.Users, users)
	doc.Firewall.validate(d)
	cfg.Firewall = doc.Firewall.firewall(cfg.Doors)
	doc.Shield.validate(d)
	cfg.Shield = doc.Shield.shield()
	cfg.Notify = d.validateTargets("notify", doc.Notify, ofAll, notice.Repair, notice.Degraded)
	cfg.Sequences = d.validateSequences(doc.Sequences, doors, users, cfg)
	d.check(cfg)
	return cfg
}

// notEmpty reports a list of the file that has no items.
func (d *decoder) notEmpty(section string, items int) {
	if d.keys[""].at(section) != nil && items == 0 && !d.wrong(section) {
		d.errorAt(section, "is empty (at least one)")
	}
}

// A setting is a scalar outside of lists, with its default. A variable of the
// environment overrides it.
type setting struct {
	key          string
	defaultValue any
}

// settings returns all settings of a configuration.
func settings() []setting { return settingsIn(reflect.ValueOf(defaults()), "") }

func settingsIn(section reflect.Value, key string) (all []setting) {
	for i := range section.NumField() {
		field := section.Type().Field(i)
		at := join(key, field.Tag.Get("mapstructure"))
		switch {
		case field.Type.Kind() == reflect.Slice:
		case isSection(field.Type):
			all = append(all, settingsIn(section.Field(i), at)...)
		default:
			all = append(all, setting{at, section.Field(i).Interface()})
		}
	}
	return all
}

// isSection reports whether a type is decoded from a mapping alone.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[reader]())
}
