package config

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"webknock/firewall"
	"webknock/internal/notice"
	"webknock/sequence"
)

// overrides are the scalars that a variable WEBKNOCK_… may set, with their
// defaults. Scalars in lists have none.
var overrides = map[string]string{
	"clients.max":         "65536",
	"clients.ipv6_prefix": "128",
	"firewall.backend":    BackendNFTables,
	"firewall.mode":       "guard",
	"firewall.table":      "webknock",
	"firewall.mark":       "0x40000000",
	"firewall.owner":      "false",
	"admin.socket":        "/run/webknock/webknock.sock",
	"log.level":           "info",
	"log.format":          "auto",
	"state":               "/var/lib/webknock",
}

// Load reads and validates a configuration file: YAML, or TOML or JSON by its
// extension. What is wrong with it is an Errors.
func Load(file string) (*Config, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w (write one, or name it with --config)", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	cfg, err := Parse(file, data)
	if err != nil {
		return nil, err
	}
	if cfg.Source, err = sourceOf(cfg, data); err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o004 != 0 {
		cfg.Warnings = append(cfg.Warnings, file+": everybody may read it, and the paths in it are secrets (chmod o-r)")
	}
	return cfg, nil
}

// Parse validates a configuration; the name of its file tells its format.
func Parse(file string, data []byte) (*Config, error) {
	root, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	return decode(file, root, nil)
}

// decode validates the tree of a configuration, in which users may be new, with
// a file that is not written yet.
func decode(file string, root *yaml.Node, unwritten map[*yaml.Node]User) (*Config, error) {
	values, err := environment()
	if err != nil {
		return nil, err
	}
	override(root, values)
	return (&decoder{name: file, unwritten: unwritten}).decode(root)
}

// decode validates a tree to which the environment has been applied.
func (d *decoder) decode(root *yaml.Node) (*Config, error) {
	d.steps = map[string]*yaml.Node{}
	cfg := d.config(root)
	if len(d.errs) > 0 {
		return nil, d.sorted()
	}
	cfg.File = d.name
	cfg.Warnings = d.warnings
	return cfg, nil
}

var yamlError = regexp.MustCompile(`^yaml: line (\d+): (.*)`)

// parse returns the top mapping of a file.
func parse(file string, data []byte) (*yaml.Node, error) {
	if filepath.Ext(file) == ".toml" {
		return parseTOML(file, data)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
			line, _ := strconv.Atoi(m[1])
			return nil, Errors{{File: file, Line: line, Col: 1, Msg: m[2]}}
		}
		return nil, Errors{{File: file, Msg: strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	if len(doc.Content) == 0 {
		return &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}, nil
	}
	return doc.Content[0], nil
}

// environment returns the values of the overrides that viper finds, by key.
func environment() (map[string]string, error) {
	v := viper.New()
	v.SetEnvPrefix("WEBKNOCK")
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(nil)); err != nil {
		return nil, err
	}
	values := map[string]string{}
	for key := range overrides {
		if err := v.BindEnv(key); err != nil {
			return nil, err
		}
		if v.IsSet(key) {
			values[key] = v.GetString(key)
		}
	}
	return values, nil
}

// override sets scalars of the environment, by key.
func override(root *yaml.Node, values map[string]string) {
	for key, value := range values {
		variable := "WEBKNOCK_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		set(root, strings.Split(key, "."), &yaml.Node{Kind: yaml.ScalarNode, Tag: envTag, Value: value, HeadComment: variable})
	}
}

// set puts a value at a path of mappings, over what is there.
func set(n *yaml.Node, path []string, value *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return // reported when it is decoded
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != path[0] {
			continue
		}
		if len(path) == 1 {
			n.Content[i+1] = value
		} else {
			set(n.Content[i+1], path[1:], value)
		}
		return
	}
	if len(path) > 1 {
		inner := &yaml.Node{Kind: yaml.MappingNode, Line: n.Line, Column: n.Column}
		set(inner, path[1:], value)
		value = inner
	}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: path[0], Line: n.Line, Column: n.Column}, value)
}

var name = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// NameRule says what a name is.
const NameRule = "1 to 32 of a-z 0-9 _ -, starting with a letter"

// IsName reports whether s may name a door, a sequence or a user.
func IsName(s string) bool { return name.MatchString(s) }

// named reads a name, which no other in seen may have.
func (d *decoder) named(to *string, seen map[string]bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		switch {
		case !ok:
		case !IsName(s):
			d.errorf(n, key, "%q is no name (%s)", s, NameRule)
		case seen[s]:
			d.errorf(n, key, "there is another %q (give each a name of its own)", s)
		default:
			seen[s] = true
		}
		*to = s
	}
}

// need reports a key that is missing.
func (d *decoder) need(n *yaml.Node, key string, there map[string]*yaml.Node, wanted string) bool {
	if there[wanted] == nil {
		d.errorf(n, strings.TrimPrefix(key+"."+wanted, "."), "is missing")
		return false
	}
	return true
}

func (d *decoder) config(root *yaml.Node) *Config {
	cfg := &Config{
		Clients: Clients{Max: 65536, IPv6Prefix: 128},
		Firewall: Firewall{Backend: overrides["firewall.backend"], Table: overrides["firewall.table"],
			Guard: firewall.Guard{Mark: 0x40000000}},
		Shield: Shield{Rate: 20, Per: time.Second, Ban: Ban{Within: time.Minute, For: 10 * time.Minute}},
		Admin:  Admin{Socket: overrides["admin.socket"]},
		Log:    Log{Format: overrides["log.format"]},
		State:  overrides["state"],
	}
	var sequences func() // once all doors and users are known
	doors, users := map[string]bool{}, map[string]bool{}
	var doorNodes []*yaml.Node
	there := d.mapping(root, "", fields{
		"listeners": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) { d.listener(n, key, cfg) })
		},
		"clients": func(n *yaml.Node, key string) {
			d.mapping(n, key, fields{
				"max":         d.integer(&cfg.Clients.Max, 1, 100_000_000),
				"ipv6_prefix": d.integer(&cfg.Clients.IPv6Prefix, 1, 128),
			})
		},
		"doors": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				doorNodes = append(doorNodes, n)
				d.door(n, key, cfg, doors)
			})
		},
		"sequences": func(n *yaml.Node, key string) {
			sequences = func() {
				seen := map[string]bool{}
				d.list(n, key, func(n *yaml.Node, key string) { d.sequence(n, key, cfg, doors, users, seen) })
			}
		},
		"users": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) { d.user(n, key, cfg, users) })
		},
		"firewall": func(n *yaml.Node, key string) {
			mode := ""
			d.mapping(n, key, fields{
				"backend": d.oneOf(&cfg.Firewall.Backend, BackendNFTables, BackendMemory),
				"mode": func(n *yaml.Node, key string) {
					d.oneOf(&mode, "guard", "sets")(n, key)
					if mode == "sets" {
						cfg.Firewall.Guard.Mode = firewall.Sets
					}
				},
				"table": func(n *yaml.Node, key string) {
					d.str(&cfg.Firewall.Table)(n, key)
					if !tableName.MatchString(cfg.Firewall.Table) {
						d.errorf(n, key, "%q is no name of a table (1 to 64 letters, digits, _, starting with a letter)", cfg.Firewall.Table)
					}
				},
				"mark":  d.mark(&cfg.Firewall.Guard.Mark),
				"owner": d.boolean(&cfg.Firewall.Guard.Owner),
				"allow": func(n *yaml.Node, key string) {
					d.list(n, key, func(n *yaml.Node, key string) {
						if p, ok := d.network(n, key); ok {
							cfg.Firewall.Guard.Allow = append(cfg.Firewall.Guard.Allow, p)
						}
					})
				},
			})
		},
		"shield": func(n *yaml.Node, key string) { d.shield(n, key, cfg) },
		"admin": func(n *yaml.Node, key string) {
			d.mapping(n, key, fields{"socket": d.path(&cfg.Admin.Socket), "metrics": d.notYet})
		},
		"log": func(n *yaml.Node, key string) {
			level := "info"
			d.mapping(n, key, fields{
				"level":  d.oneOf(&level, "debug", "info", "warn", "error"),
				"format": d.oneOf(&cfg.Log.Format, "auto", "text", "json"),
			})
			cfg.Log.Level.UnmarshalText([]byte(level)) // one of slog's own words
		},
		"state":  d.path(&cfg.State),
		"notify": d.targets(&cfg.Notify, ofAll, notice.Repair, notice.Degraded),
	})
	if sequences != nil {
		sequences()
	}
	for _, key := range []string{"listeners", "doors", "sequences"} {
		if n := there[key]; d.need(root, "", there, key) && n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			d.errorf(n, key, "is empty (at least one)")
		}
	}
	cfg.Firewall.Guard.Doors = cfg.Doors
	for i, s := range cfg.Sequences {
		if ban := cfg.Shield.Ban.Knocks; ban > 0 && len(s.Steps) > ban {
			d.errorf(nil, "shield.ban.knocks", "%d, but sequence %q has %d steps: nobody could complete it (at least that)", ban, s.Name, len(s.Steps))
		}
		for j, step := range s.Steps {
			if matchesOneOf(step.Trigger, cfg.Shield.Decoys) {
				key := fmt.Sprintf("sequences[%d].steps[%d]", i, j)
				d.errorf(d.steps[key], key, "is a decoy as well, so that who asks for it is banned (take it out of shield.decoys)")
			}
		}
	}
	if slices.ContainsFunc(cfg.Listeners, func(l Listener) bool { return l.Cover.Proxy != nil }) {
		for i, s := range cfg.Sequences {
			if s.Strict {
				d.warnf(nil, fmt.Sprintf("sequences[%d].strict", i), "under a proxy cover a page's own requests start the sequence over (strict: false)")
			}
		}
	}
	if cfg.Firewall.Guard.Mode == firewall.Sets {
		for i, door := range cfg.Doors {
			if door.Established == firewall.Cut {
				d.errorf(doorNodes[i], fmt.Sprintf("doors[%d].established", i), "cut needs firewall.mode guard (in mode sets your own rules decide what lives on)")
			}
		}
	}
	return cfg
}

var rate = regexp.MustCompile(`^(\d{1,6})/(second|minute|hour)$`)

func (d *decoder) shield(n *yaml.Node, key string, cfg *Config) {
	s := &cfg.Shield
	d.mapping(n, key, fields{
		"rate": func(n *yaml.Node, key string) {
			text, ok := d.text(n, key)
			m := rate.FindStringSubmatch(text)
			switch {
			case !ok:
			case text == "off":
				s.Rate = 0
			case m == nil || strings.Trim(m[1], "0") == "":
				d.errorf(n, key, "%q is no rate (like 20/second or 100/minute, or off)", text)
			default:
				s.Rate, _ = strconv.Atoi(m[1])
				s.Per = map[string]time.Duration{"second": time.Second, "minute": time.Minute, "hour": time.Hour}[m[2]]
			}
		},
		"ban": func(n *yaml.Node, key string) {
			there := d.mapping(n, key, fields{
				"knocks": d.integer(&s.Ban.Knocks, 1, 1_000_000),
				"within": d.duration(&s.Ban.Within, time.Second, 24*time.Hour),
				"for":    d.duration(&s.Ban.For, time.Second, 24*time.Hour),
				"doors":  d.boolean(&s.Ban.Doors),
			})
			d.need(n, key, there, "knocks")
		},
		"decoys": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				p, ok := d.text(n, key)
				switch {
				case !ok:
				case !strings.HasPrefix(p, "/"):
					d.errorf(n, key, "not a path (it starts with /)")
				default:
					s.Decoys = append(s.Decoys, p)
				}
			})
		},
	})
}

var tableName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

func (d *decoder) mark(to *uint32) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		if !ok {
			return
		}
		v, err := strconv.ParseUint(s, 0, 32)
		if err != nil || v == 0 {
			d.errorf(n, key, "%q is no mark (a number of 32 bits that is not 0, like 0x40000000)", s)
			return
		}
		*to = uint32(v)
	}
}

// network reads a prefix, or an address, which is a prefix of one.
func (d *decoder) network(n *yaml.Node, key string) (netip.Prefix, bool) {
	s, ok := d.text(n, key)
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
		p, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	switch {
	case err != nil || p.Addr().Is4In6():
		d.errorf(n, key, "%q is no network (like 192.168.1.0/24 or 2001:db8::/32)", s)
	case p != p.Masked():
		d.errorf(n, key, "%q has bits set behind its prefix (%s)", s, p.Masked())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

func (d *decoder) path(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		if s, ok := d.text(n, key); ok && !filepath.IsAbs(s) {
			d.errorf(n, key, "%q is no absolute path (write one that starts with /)", s)
		} else if ok {
			*to = s
		}
	}
}

func (d *decoder) listener(n *yaml.Node, key string, cfg *Config) {
	l := Listener{MaxConnections: 16384, ClientAddress: "peer"}
	there := d.mapping(n, key, fields{
		"address": func(n *yaml.Node, key string) {
			d.str(&l.Address)(n, key)
			if name, ok := strings.CutPrefix(l.Address, "systemd:"); ok {
				if !socketName.MatchString(name) {
					d.errorf(n, key, "%q is no name of a socket (systemd:NAME, as FileDescriptorName= has it)", name)
				}
			} else {
				_, port, err := net.SplitHostPort(l.Address)
				if p, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || p == 0 {
					d.errorf(n, key, "%q is no address (host:port, like :8080 or 192.0.2.1:80, or systemd:NAME)", l.Address)
				}
			}
			if slices.ContainsFunc(cfg.Listeners, func(o Listener) bool { return o.Address == l.Address }) {
				d.errorf(n, key, "another listener has %q (each its own)", l.Address)
			}
		},
		"tls": func(n *yaml.Node, key string) { l.TLS = d.tls(n, key) },
		"proxies": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				if p, ok := d.network(n, key); ok {
					l.Proxies = append(l.Proxies, p)
				}
			})
		},
		"client_address":  d.oneOf(&l.ClientAddress, "peer", "x-forwarded-for", "forwarded", "x-real-ip", "proxy-protocol"),
		"max_connections": d.integer(&l.MaxConnections, 1, 1<<20),
		"cover":           func(n *yaml.Node, key string) { l.Cover = d.cover(n, key) },
	})
	d.need(n, key, there, "address")
	if named := l.ClientAddress != "peer"; named != (len(l.Proxies) > 0) {
		if named {
			d.errorf(there["client_address"], key+".client_address", "%s, but nobody may say so (name the networks of your proxies in proxies)", l.ClientAddress)
		} else {
			d.errorf(there["proxies"], key+".proxies", "they may speak for clients, but how? (client_address: x-forwarded-for, forwarded, x-real-ip or proxy-protocol)")
		}
	}
	if len(l.Proxies) > 0 && l.Cover.Status == 0 && l.Cover.Proxy == nil && l.ClientAddress != "proxy-protocol" {
		d.warnf(n, key+".cover", "behind a proxy, drop shows as its error 502 (cover: {status: 404})")
	}
	cfg.Listeners = append(cfg.Listeners, l)
}

var socketName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)

func (d *decoder) tls(n *yaml.Node, key string) *TLS {
	t := new(TLS)
	there := d.mapping(n, key, fields{
		"certificate": d.certificateFile(&t.Certificate),
		"key":         d.certificateKey(&t.Key),
		"acme":        func(n *yaml.Node, key string) { t.ACME = d.acme(n, key) },
		"server_names": func(n *yaml.Node, key string) {
			d.strs(&t.ServerNames)(n, key)
			for i, name := range t.ServerNames {
				t.ServerNames[i] = strings.ToLower(name)
				if !hostName.MatchString(name) {
					d.errorf(n, key, "%q is no host name (like home.example.org)", name)
				}
			}
		},
	})
	if t.ACME != nil {
		if there["certificate"] != nil || there["key"] != nil {
			d.errorf(there["acme"], key+".acme", "stands beside certificate or key (either acme, or both of them)")
		}
		for i, name := range t.ServerNames {
			if !slices.Contains(t.ACME.Domains, name) {
				d.warnf(there["server_names"], fmt.Sprintf("%s.server_names[%d]", key, i), "%s is not among the domains of acme, so that there is no certificate for it", name)
			}
		}
		return t
	}
	if d.need(n, key, there, "certificate") && d.need(n, key, there, "key") && t.Certificate != "" && t.Key != "" {
		if d.kept != nil {
			d.keptCertificate(t, key)
		} else if _, err := tls.LoadX509KeyPair(t.Certificate, t.Key); err != nil {
			d.errorf(there["certificate"], key+".certificate", "cannot be used: %v (a chain and its key, in PEM)", err)
		}
	}
	return t
}

// acme reads how certificates are obtained, and contacts nobody.
func (d *decoder) acme(n *yaml.Node, key string) *ACME {
	a := new(ACME)
	there := d.mapping(n, key, fields{
		"domains": func(n *yaml.Node, key string) {
			before := len(d.errs)
			d.list(n, key, func(n *yaml.Node, key string) {
				s, ok := d.text(n, key)
				domain := strings.ToLower(s)
				_, addrErr := netip.ParseAddr(s)
				switch {
				case !ok:
				case strings.Contains(s, "*"):
					d.errorf(n, key, "%q is a wildcard, which needs a challenge by DNS (list each host name)", s)
				case !hostName.MatchString(s) || strings.Contains(s, "..") || addrErr == nil:
					d.errorf(n, key, "%q is no host name (like home.example.org)", s)
				case slices.Contains(a.Domains, domain):
					d.errorf(n, key, "%q is there twice (once)", s)
				default:
					a.Domains = append(a.Domains, domain)
				}
			})
			if len(a.Domains) == 0 && len(d.errs) == before {
				d.errorf(n, key, "is empty (at least one host name)")
			}
		},
		"email": func(n *yaml.Node, key string) {
			s, ok := d.text(n, key)
			if address, err := mail.ParseAddress(s); ok && (err != nil || address.Address != s) {
				d.errorf(n, key, "%q is no email address (like me@example.org)", s)
			}
			a.Email = s
		},
		"directory": func(n *yaml.Node, key string) {
			s, ok := d.text(n, key)
			if u, err := url.Parse(s); ok && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "") {
				d.errorf(n, key, "%q is no https URL (like https://acme-v02.api.letsencrypt.org/directory)", s)
			}
			a.Directory = s
		},
		"ca": func(n *yaml.Node, key string) {
			file := ""
			if d.file(&file)(n, key); file == "" {
				return
			}
			var err error
			if a.CA, err = os.ReadFile(file); err != nil || !x509.NewCertPool().AppendCertsFromPEM(a.CA) {
				d.lackf(n, key, "%s has no certificate (the roots to trust for the directory, in PEM)", file)
			}
		},
	})
	d.need(n, key, there, "domains")
	return a
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$`)

// file reads the path of a file that must be there. One that is not absolute is
// beside the configuration.
func (d *decoder) file(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		s, ok := d.text(n, key)
		if !ok {
			return
		}
		s = beside(d.name, s)
		f, err := os.Open(s)
		if err != nil {
			d.lackf(n, key, "cannot be read: %v (a file that webknock may read)", err)
			return
		}
		f.Close()
		*to = s
	}
}

// beside returns a path in a configuration as one for the program: one that is
// not absolute is beside the configuration.
func beside(config, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(config), path)
}

// secretFile is file for one that nobody else may read.
func (d *decoder) secretFile(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		before := len(d.errs)
		d.file(to)(n, key)
		if len(d.errs) > before {
			return
		}
		if info, err := os.Stat(*to); err == nil && info.Mode().Perm()&0o007 != 0 {
			d.lackf(n, key, "everybody may read %s, and it is a secret (chmod o= %s)", *to, *to)
		}
	}
}

func (d *decoder) cover(n *yaml.Node, key string) (c Cover) {
	if n.Kind == yaml.ScalarNode {
		word := ""
		d.oneOf(&word, "drop")(n, key)
		return c
	}
	there := d.mapping(n, key, fields{
		"status": d.integer(&c.Status, 200, 599),
		"body_file": func(n *yaml.Node, key string) {
			d.file(&c.BodyFile)(n, key)
			if c.BodyFile == "" {
				return
			}
			var err error
			if c.Body, err = os.ReadFile(c.BodyFile); err != nil || len(c.Body) > maxBody {
				d.lackf(n, key, "cannot be used (a file of up to 1 MiB)")
				c.Body = nil
			}
		},
		"proxy": func(n *yaml.Node, key string) {
			s, ok := d.text(n, key)
			u, err := url.Parse(s)
			switch {
			case !ok:
			case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
				d.errorf(n, key, "%q is no address of a site (like http://127.0.0.1:8081)", s)
			default:
				c.Proxy = u
			}
		},
	})
	switch {
	case (there["status"] == nil) == (there["proxy"] == nil):
		d.errorf(n, key, "needs either status or proxy (or write drop)")
	case there["body_file"] != nil && there["proxy"] != nil:
		d.errorf(there["body_file"], key+".body_file", "goes with status")
	}
	return c
}

const maxBody = 1 << 20 // bytes of a constant response

const (
	minTTL    = time.Second
	maxTTL    = 24 * time.Hour
	maxWithin = 24 * time.Hour
)

func (d *decoder) door(n *yaml.Node, key string, cfg *Config, seen map[string]bool) {
	door := firewall.Door{TTL: 30 * time.Second, MaxGrants: 1024, Prefix4: 32, Prefix6: 128}
	there := d.mapping(n, key, fields{
		"name": func(n *yaml.Node, key string) {
			d.named(&door.Name, seen)(n, key)
			if door.Name == "before" {
				d.errorf(n, key, `"before" is taken by webknock itself (another name)`)
			}
		},
		"ports": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) { d.ports(n, key, cfg, &door) })
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.errorf(n, key, "is empty (at least one, like 22/tcp)")
			}
		},
		"ttl":     d.duration(&door.TTL, minTTL, maxTTL),
		"max_ttl": d.duration(&door.MaxTTL, minTTL, maxTTL),
		"established": func(n *yaml.Node, key string) {
			word := "keep"
			d.oneOf(&word, "keep", "cut")(n, key)
			if word == "cut" {
				door.Established = firewall.Cut
			}
		},
		"max_grants":  d.integer(&door.MaxGrants, 1, 65536),
		"connections": d.integer(&door.Connections, 0, 65536),
		"forward": func(n *yaml.Node, key string) {
			s, ok := d.text(n, key)
			to, err := netip.ParseAddrPort(s)
			switch {
			case !ok:
			case err != nil || to.Port() == 0 || to.Addr().Zone() != "" || to.Addr().IsUnspecified() || to.Addr().IsLoopback():
				d.errorf(n, key, "%q is no address of another host (address:port, like 10.0.0.5:22 or [2001:db8::5]:22)", s)
			default:
				door.Forward = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
			}
		},
		"prefix": func(n *yaml.Node, key string) {
			d.mapping(n, key, fields{"ipv4": d.integer(&door.Prefix4, 8, 32), "ipv6": d.integer(&door.Prefix6, 16, 128)})
		},
	})
	d.need(n, key, there, "name")
	d.need(n, key, there, "ports")
	if at := there["max_ttl"]; at != nil && door.MaxTTL > 0 && door.MaxTTL < door.TTL {
		d.errorf(at, key+".max_ttl", "%v is less than the door's ttl %v (at least that)", door.MaxTTL, door.TTL)
	}
	door.MaxTTL = max(door.MaxTTL, door.TTL)
	cfg.Doors = append(cfg.Doors, door)
}

var ports = regexp.MustCompile(`^(\d{1,5})(?:-(\d{1,5}))?/(tcp|udp)$`)

func (d *decoder) ports(n *yaml.Node, key string, cfg *Config, door *firewall.Door) {
	s, ok := d.text(n, key)
	if !ok {
		return
	}
	m := ports.FindStringSubmatch(s)
	if m == nil {
		d.errorf(n, key, "%q is no port (like 22/tcp or 60000-61000/udp)", s)
		return
	}
	first, _ := strconv.Atoi(m[1])
	last, _ := strconv.Atoi(cmp.Or(m[2], m[1]))
	if first < 1 || last > 65535 || last < first {
		d.errorf(n, key, "%q is no range of ports (1 to 65535, the lower one first)", s)
		return
	}
	p := firewall.Ports{Protocol: firewall.TCP, First: uint16(first), Last: uint16(last)}
	if m[3] == "udp" {
		p.Protocol = firewall.UDP
	}
	for _, other := range append(slices.Clone(cfg.Doors), *door) {
		for _, o := range other.Ports {
			if o.Protocol == p.Protocol && o.First <= p.Last && p.First <= o.Last {
				d.errorf(n, key, "%s is in door %q already, as %s (each port in one door)", s, other.Name, o)
				return
			}
		}
	}
	door.Ports = append(door.Ports, p)
}

func (d *decoder) sequence(n *yaml.Node, key string, cfg *Config, doors, users, seen map[string]bool) {
	s := Sequence{Spec: sequence.Spec{Strict: true, Ignore: []string{"/favicon.ico", "/robots.txt", "/apple-touch-icon.png"}}}
	within := 10 * time.Second
	var targets []notice.Target
	doorList := func(to *[]string) func(*yaml.Node, string) {
		return func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				door, ok := d.text(n, key)
				switch {
				case !ok:
				case !doors[door]:
					d.errorf(n, key, "there is no door %q (one of doors)", door)
				case slices.Contains(slices.Concat(s.Opens, s.Closes), door):
					d.errorf(n, key, "door %q is there twice (once, in opens or closes)", door)
				default:
					*to = append(*to, door)
				}
			})
		}
	}
	there := d.mapping(n, key, fields{
		"name": d.named(&s.Name, seen),
		"steps": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				s.Steps = append(s.Steps, d.step(n, key, len(s.Steps) == 0))
			})
			if count := len(s.Steps); count < 1 || count > sequence.MaxSteps {
				d.errorf(n, key, "has %d steps (1 to %d)", count, sequence.MaxSteps)
			}
		},
		"within": d.duration(&within, time.Millisecond, maxWithin),
		"window": d.duration(&s.Window, 0, maxWithin),
		"strict": d.boolean(&s.Strict),
		"ignore": func(n *yaml.Node, key string) {
			d.strs(&s.Ignore)(n, key)
			for i, p := range s.Ignore {
				if !strings.HasPrefix(p, "/") {
					d.errorf(n.Content[i], fmt.Sprintf("%s[%d]", key, i), "not a path (it starts with /)")
				}
			}
		},
		"users": func(n *yaml.Node, key string) {
			d.list(n, key, func(n *yaml.Node, key string) {
				user, ok := d.text(n, key)
				switch {
				case !ok:
				case !users[user]:
					d.errorf(n, key, "there is no user %q (one of users)", user)
				case slices.Contains(s.Users, user):
					d.errorf(n, key, "user %q is there twice (once)", user)
				default:
					s.Users = append(s.Users, user)
				}
			})
		},
		"opens":         doorList(&s.Opens),
		"closes":        doorList(&s.Closes),
		"run":           d.commands(&s.Run),
		"notify":        d.targets(&targets, ofSequences, notice.Completion),
		"message":       d.str(&s.Message),
		"allow_address": d.boolean(&s.AllowAddress),
	})
	d.need(n, key, there, "name")
	d.need(n, key, there, "steps")
	if there["opens"] == nil && there["closes"] == nil && there["run"] == nil && there["notify"] == nil && s.Message == "" {
		d.errorf(n, key, "does nothing when it completes (opens, closes, run, notify or message)")
	}
	for i, c := range s.Run {
		if c.On != OnComplete && c.On != "" && len(s.Opens) == 0 {
			d.errorf(there["run"], fmt.Sprintf("%s.run[%d].on", key, i), "%s, but the sequence opens nothing (opens, or on: complete)", c.On)
		}
	}
	for _, t := range targets {
		t.Sequence = s.Name
		cfg.Notify = append(cfg.Notify, t)
	}
	oneTime := s.has(sequence.TOTP, sequence.Ticket)
	if n := there["users"]; len(s.Users) > 0 && !oneTime {
		d.errorf(n, key+".users", "no step asks who knocks (a step like /k/{totp}, or leave it out)")
	}
	if n := there["allow_address"]; s.AllowAddress && !s.has(sequence.Ticket) {
		d.errorf(n, key+".allow_address", "only a ticket can name an address (a step like /t/{ticket}, or leave it out)")
	}
	for i := range s.Steps {
		if i > 0 && s.Steps[i].Within == 0 {
			s.Steps[i].Within = within
		}
		step := fmt.Sprintf("%s.steps[%d]", key, i)
		if s.Steps[i].Trigger.Template != "" && len(users) == 0 {
			d.errorf(d.steps[step], step, "asks for something of a user, and there are none (webknock user add NAME)")
		}
		if matchesOneOf(s.Steps[i].Trigger, s.Ignore) {
			d.errorf(d.steps[step], step, "is ignored by its own sequence (take it out of ignore)")
		}
	}
	cfg.Sequences = append(cfg.Sequences, s)
}

// matchesOneOf reports whether a trigger stands for one of the paths.
func matchesOneOf(t sequence.Trigger, paths []string) bool {
	if t.Hash != "" {
		return slices.ContainsFunc(paths, func(p string) bool { return fmt.Sprintf("%x", sha256.Sum256([]byte(p))) == t.Hash })
	}
	path := cmp.Or(t.Path, t.Template)
	return path != "" && slices.Contains(paths, path)
}

// step reads a step: a path, or a mapping.
func (d *decoder) step(n *yaml.Node, key string, first bool) sequence.Step {
	d.steps[key] = n
	var s sequence.Step
	path := func(n *yaml.Node, key string) {
		text, ok := d.text(n, key)
		hash, hashed := strings.CutPrefix(text, "sha256:")
		switch {
		case !ok:
		case hashed && hash == "":
			d.errorf(n, key, "the hash is missing (webknock hash prints one)")
		case hashed:
			s.Trigger.Hash = strings.ToLower(hash)
		case strings.Contains(text, sequence.TOTP) || strings.Contains(text, sequence.Ticket):
			s.Trigger.Template = text
		default:
			s.Trigger.Path = text
		}
	}
	before := len(d.errs)
	if n.Kind == yaml.ScalarNode {
		path(n, key)
	} else {
		d.mapping(n, key, fields{
			"path": path,
			"regex": func(n *yaml.Node, key string) {
				d.str(&s.Trigger.Regex)(n, key)
				if strings.Contains(s.Trigger.Regex, sequence.TOTP) || strings.Contains(s.Trigger.Regex, sequence.Ticket) {
					d.errorf(n, key, "a regex holds no {totp} and no {ticket} (write a path with it)")
				}
			},
			"method": d.str(&s.Trigger.Method),
			"host":   d.str(&s.Trigger.Host),
			"query": func(n *yaml.Node, key string) {
				s.Trigger.Query = map[string]string{}
				if n.Kind != yaml.MappingNode {
					d.errorf(n, key, "not a mapping (write {name: value})")
					return
				}
				for i := 0; i+1 < len(n.Content); i += 2 {
					if v, ok := d.text(n.Content[i+1], key); ok {
						s.Trigger.Query[n.Content[i].Value] = v
					}
				}
			},
			"within": func(n *yaml.Node, key string) {
				d.duration(&s.Within, time.Millisecond, maxWithin)(n, key)
				if first {
					d.errorf(n, key, "the first step has no step before it (leave it out)")
				}
			},
		})
	}
	if err := s.Trigger.Validate(); err != nil && len(d.errs) == before {
		d.errorf(n, key, "%v", err)
	}
	return s
}
