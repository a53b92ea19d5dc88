package config

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"webknock/firewall"
	"webknock/internal/suggest"
)

// A decoder decodes one file, and collects what is wrong with it.
type decoder struct {
	name       string // of the file
	errs       Errors
	warnings   Errors
	places     map[string]*yaml.Node // values by their keys, like doors[0].ttl
	keys       map[string]keys       // the keys that each mapping has, by its own key
	overridden map[string]string     // values of the environment, by key
	files      []namedFile

	// kept is the source of a configuration that was in force. With it, what is
	// wrong with other files than that of the configuration goes into lacks,
	// not into errs.
	kept  *Source
	lacks []string

	unwritten map[*yaml.Node]User // users whose file need not exist yet, by the node with its path
}

// A value is a part of the tree: what viper and mapstructure pass on, and the
// hook reads.
type value struct {
	key  string // like doors[0].ttl
	node *yaml.Node
	tag  reflect.StructTag // of the field; items of a list have that of the list
}

// A reader is a type that reads itself from a value of the file. It reports what
// is wrong to d. It returns what mapstructure decodes into it; nil leaves it as
// read has set it.
type reader interface {
	read(d *decoder, v *value) any
}

// hook is called by mapstructure before it decodes something into to. It turns a
// value of the file into what fits the type of to, or reports what is wrong and
// returns nil, which leaves to as it is.
func (d *decoder) hook(from, to reflect.Value) (any, error) {
	v, ok := from.Interface().(*value)
	if !ok { // a default, or what this hook has returned for something around it
		return from.Interface(), nil
	}
	switch to := to.Addr().Interface().(type) {
	case reader:
		return to.read(d, v), nil
	case *string:
		return d.str(v), nil
	case *bool:
		return d.boolean(v), nil
	case *int:
		return d.integer(v), nil
	case *time.Duration:
		return d.duration(v), nil
	case *slog.Level:
		return d.level(v), nil
	case *netip.Prefix:
		return d.network(v), nil
	case *netip.AddrPort:
		return d.otherHost(v), nil
	case *firewall.Ports:
		return d.ports(v), nil
	case **url.URL:
		return d.site(v), nil
	}
	switch to.Kind() {
	case reflect.Pointer: // mapstructure asks again, for what it points to
		return v, nil
	case reflect.Slice:
		return d.items(v), nil
	case reflect.Struct:
		return d.mapping(v, to.Addr().Interface()), nil
	}
	return nil, fmt.Errorf("no value is decoded into a %v", to.Type())
}

// mapping returns the values of a mapping that goes into a struct, by key, and
// sets the defaults of the struct.
func (d *decoder) mapping(v *value, pointer any) any {
	if to, ok := pointer.(interface{ setDefaults() }); ok {
		to.setDefaults()
	}
	return d.fields(v, reflect.TypeOf(pointer).Elem())
}

// sections returns the values of a mapping that goes into a section, by key. The
// values of sections inside of it are maps as well.
func (d *decoder) sections(v *value, section any) map[string]any {
	t := reflect.TypeOf(section)
	values := d.fields(v, t)
	for i := range t.NumField() {
		field := t.Field(i)
		name := field.Tag.Get("mapstructure")
		if inner, ok := values[name].(*value); ok && isSection(field.Type) {
			values[name] = d.sections(inner, reflect.Zero(field.Type).Interface())
			if len(values[name].(map[string]any)) == 0 {
				delete(values, name)
			}
		}
	}
	return values
}

// keys is the keys of a mapping in the file.
type keys struct {
	values     map[string]*yaml.Node
	misspelled map[string]bool // keys that unknown ones most likely mean
	known      bool            // it is a mapping, so that a key that is not there is missing
	others     bool            // there are unknown keys
}

// at returns the value of a key, or nil.
func (k keys) at(name string) *yaml.Node { return k.values[name] }

// has reports whether one of the keys is there, or an unknown key most likely
// means one of them.
func (k keys) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return k.values[name] != nil || k.misspelled[name] })
}

// fields compares the keys of a mapping with the fields of a struct, and returns
// the values of those that fit. Null is a mapping without keys.
func (d *decoder) fields(v *value, t reflect.Type) map[string]any {
	there := keys{values: map[string]*yaml.Node{}, misspelled: map[string]bool{}, known: true}
	defer func() { d.keys[v.key] = there }()
	tags := tagsOf(t)
	words := slices.Sorted(maps.Keys(tags))
	values := map[string]any{}
	if !isNull(v.node) && v.node.Kind != yaml.MappingNode {
		there.known = false
		d.errorf(v.node, v.key, "is not a mapping (write its keys as %s)", strings.Join(words, ", "))
		return values
	}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		name, n := v.node.Content[i], v.node.Content[i+1]
		key := join(v.key, name.Value)
		tag, known := tags[name.Value]
		switch {
		case name.Kind != yaml.ScalarNode:
			there.known = false
			d.errorf(name, v.key, "a bracket or brace stands where a key would (quote what holds one)")
		case there.values[name.Value] != nil:
			d.errorf(name, key, "is there twice (remove one)")
		case !known:
			there.others = true
			there.misspelled[suggest.Closest(name.Value, words)] = true
			d.errorf(name, key, "unknown key (%s)", oneOfWords(name.Value, words))
		default:
			there.values[name.Value] = n
			d.places[key] = n
			values[name.Value] = &value{key, n, tag}
		}
	}
	for _, name := range words {
		if right, ok := tags[name].Lookup("required"); ok && d.overridden[join(v.key, name)] == "" {
			d.need(v.node, v.key, there, name, right)
		}
	}
	return values
}

// need reports a key that is missing, and what would be right. A key that is most
// likely misspelled has been reported.
func (d *decoder) need(n *yaml.Node, key string, there keys, wanted, right string) {
	if there.known && !there.has(wanted) {
		d.errorf(n, join(key, wanted), "is missing (%s)", right)
	}
}

// tagsOf returns the tags of a struct's fields, by key.
func tagsOf(t reflect.Type) map[string]reflect.StructTag {
	tags := map[string]reflect.StructTag{}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("mapstructure"); name != "" && name != "-" {
			tags[name] = t.Field(i).Tag
		}
	}
	return tags
}

// tagOf returns the tag of the field of a setting.
func tagOf(key string) (tag reflect.StructTag) {
	t := reflect.TypeFor[document]()
	for name := range strings.SplitSeq(key, ".") {
		for i := range t.NumField() {
			if field := t.Field(i); field.Tag.Get("mapstructure") == name {
				t, tag = field.Type, field.Tag
				break
			}
		}
	}
	return tag
}

// join returns the key of something inside of a mapping.
func join(key, name string) string { return strings.TrimPrefix(key+"."+name, ".") }

// items returns the items of a list. Null is a list without items.
func (d *decoder) items(v *value) any {
	items := []any{}
	if isNull(v.node) {
		return items
	}
	if v.node.Kind != yaml.SequenceNode {
		d.errorf(v.node, v.key, "is not a list (write [one, two])")
		return nil
	}
	for i, n := range v.node.Content {
		key := fmt.Sprintf("%s[%d]", v.key, i)
		d.places[key] = n
		items = append(items, &value{key, n, v.tag})
	}
	return items
}

func (d *decoder) errorf(n *yaml.Node, key, format string, args ...any) {
	d.errs = append(d.errs, d.at(n, key, fmt.Sprintf(format, args...)))
}

// lackf reports what is wrong outside of the text of the configuration: with a
// file or a user of the system; and what the configuration does as a whole, which
// an earlier version may have allowed. Restore does without it.
func (d *decoder) lackf(n *yaml.Node, key, format string, args ...any) {
	if d.kept == nil {
		d.errorf(n, key, format, args...)
		return
	}
	d.lacks = append(d.lacks, key+": "+fmt.Sprintf(format, args...))
}

// warnf reports what is allowed but rarely meant.
func (d *decoder) warnf(n *yaml.Node, key, format string, args ...any) {
	d.warnings = append(d.warnings, d.at(n, key, fmt.Sprintf(format, args...)))
}

// errorAt is errorf for a key whose value or surroundings have been decoded.
func (d *decoder) errorAt(key, format string, args ...any) {
	d.errorf(d.place(key), key, format, args...)
}

// lackAt is lackf for a key whose value or surroundings have been decoded.
func (d *decoder) lackAt(key, format string, args ...any) {
	d.lackf(d.place(key), key, format, args...)
}

// warnAt is warnf for a key whose value or surroundings have been decoded.
func (d *decoder) warnAt(key, format string, args ...any) {
	d.warnf(d.place(key), key, format, args...)
}

// place returns the value of a key, or of the nearest one around it.
func (d *decoder) place(key string) *yaml.Node {
	for key != "" {
		if n := d.places[key]; n != nil {
			return n
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return nil
}

// wrong reports whether there is an error at one of the keys or below it. What
// depends on them is not checked then.
func (d *decoder) wrong(keys ...string) bool {
	return slices.ContainsFunc(d.errs, func(e Error) bool {
		return slices.ContainsFunc(keys, func(key string) bool {
			rest, below := strings.CutPrefix(e.Key, key)
			return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
		})
	})
}

// wrongHere is wrong for the key itself, and not for what is below it.
func (d *decoder) wrongHere(key string) bool {
	return slices.ContainsFunc(d.errs, func(e Error) bool { return e.Key == key })
}

// envTag marks a node that stands for a variable of the environment. Its
// HeadComment is the name of the variable.
const envTag = "!env"

func (d *decoder) at(n *yaml.Node, key, msg string) Error {
	e := Error{File: d.name, Key: key, Msg: msg}
	if n != nil {
		e.Line, e.Col = n.Line, n.Column
		if n.Tag == envTag {
			e.File, e.Line, e.Col = n.HeadComment, 0, 0
		}
	}
	return e
}

// sorted returns the errors in the order of the file.
func (d *decoder) sorted() Errors {
	d.errs.sort()
	return d.errs
}
