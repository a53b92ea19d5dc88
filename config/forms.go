package config

import (
	"cmp"
	"errors"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"webknock/internal/hostname"
	"webknock/sequence"
)

// A form is what a text has to look like.
type form struct {
	// pattern is a regular expression for the schema. It may allow more than
	// read does.
	pattern string
	// read checks a text, and returns what is meant, or nil after it has
	// reported what is wrong. Without it the text is taken as it is.
	read func(d *decoder, v *value, s string) any
}

// forms are the values of the tag is. Texts that name files are in files.go.
var forms = map[string]form{
	"name":            {namePattern, (*decoder).nameText},
	"reference":       {namePattern, nil}, // to a name; the section that refers checks it
	"path":            {"^/", (*decoder).absolutePath},
	"socket":          {"^/", (*decoder).socketPath},
	"file":            {"", (*decoder).file},
	"secret":          {"", (*decoder).secretFile},
	"certificate":     {"", (*decoder).certificateFile},
	"key":             {"", (*decoder).certificateKey},
	"user secret":     {".", (*decoder).userSecretFile},
	"address":         {`^(.*:[0-9]+|systemd:[A-Za-z0-9_.-]+)$`, (*decoder).address},
	"metrics address": {`^(.*:[0-9]+)?$`, (*decoder).metricsAddress},
	"server name":     {`^[^*/: ]+$`, (*decoder).serverName},
	"domain":          {`^[^*/: ]+$`, (*decoder).domain},
	"email":           {`^[^@ ]+@[^@ ]+$`, (*decoder).email},
	"directory":       {`^https://.`, (*decoder).directory},
	"request path":    {`^/[^?#{}]*$`, (*decoder).requestPath},
	"step":            {`^(/|sha256:[0-9A-Fa-f]{64}$)`, (*decoder).stepPath},
	"regex":           {".", (*decoder).regex},
	"method":          {"^[!#$%&'*+.^_`|~0-9A-Z-]+$", nil},
	"host":            {`^[^*/ ]+$`, (*decoder).host},
	"table":           {tableName.String(), (*decoder).table},
	"service":         {`^[a-z]+(\+[a-z]+)?://`, nil}, // checked by validateTargets
	"user":            {".", nil},                     // of the system; checked by Command.validate
}

const namePattern = `^[a-z][a-z0-9_-]{0,31}$`

var name = regexp.MustCompile(namePattern)

// NameRule says what a name is.
const NameRule = "1 to 32 of a-z 0-9 _ -, starting with a letter"

// IsName reports whether s may name a door, a sequence or a user.
func IsName(s string) bool { return name.MatchString(s) }

// nameText returns a name even if it is not valid, so that references to it are not reported as
// errors too.
func (d *decoder) nameText(v *value, s string) any {
	if !IsName(s) {
		d.errorf(v.node, v.key, "%q is not a valid name (%s)", s, NameRule)
	}
	return s
}

var tableName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

func (d *decoder) table(v *value, s string) any {
	if !tableName.MatchString(s) {
		d.errorf(v.node, v.key, "%q is not a valid name of a table (1 to 64 letters, digits, _, starting with a letter)", s)
	}
	return s
}

var socketName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// address reads the address of a listener.
func (d *decoder) address(v *value, s string) any {
	if name, ok := strings.CutPrefix(s, "systemd:"); ok {
		if !socketName.MatchString(name) {
			d.errorf(v.node, v.key, "%q is not a valid name of a socket (systemd:NAME, as FileDescriptorName= has it)", name)
		}
		return s
	}
	d.here(v, s, "host:port, like :8080 or 192.0.2.1:80, or systemd:NAME")
	return s
}

// metricsAddress reads the address of the metrics. An empty one is none.
func (d *decoder) metricsAddress(v *value, s string) any {
	if strings.HasPrefix(s, "systemd:") {
		d.errorf(v.node, v.key, "%q: the metrics take no socket of systemd (write host:port, like 127.0.0.1:9105)", s)
		return nil
	}
	if s != "" {
		d.here(v, s, "host:port, like 127.0.0.1:9105; leave it out for none")
	}
	return s
}

// here checks an address and port of this host. Right says what would be.
func (d *decoder) here(v *value, s, right string) {
	host, port, err := net.SplitHostPort(s)
	p, portErr := strconv.ParseUint(port, 10, 16)
	addr, isAddr := hostname.Address(host)
	switch {
	case err != nil || portErr != nil || p == 0:
		d.errorf(v.node, v.key, "%q is not a valid address (%s)", s, right)
	case isAddr && (addr.IsMulticast() || addr == broadcast):
		d.errorf(v.node, v.key, "%s is an address of many hosts (write one of this host)", host)
	}
}

// otherHost reads the address and port of another host.
func (d *decoder) otherHost(v *value) any {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	to, err := netip.ParseAddrPort(s)
	addr := to.Addr().Unmap()
	if err != nil || to.Port() == 0 || to.Addr().Zone() != "" || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() || addr == broadcast {
		d.errorf(v.node, v.key, "%q is not the address of another host (address:port, like 10.0.0.5:22 or [2001:db8::5]:22)", s)
		return nil
	}
	return netip.AddrPortFrom(addr, to.Port())
}

// site reads the URL of a real site.
func (d *decoder) site(v *value) any {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		d.errorf(v.node, v.key, "%q is not the address of a site (like http://127.0.0.1:8081)", s)
		return nil
	}
	return u
}

// serverName reads a host name that clients name in TLS, and returns it as
// hostname.ASCII does.
func (d *decoder) serverName(v *value, s string) any {
	host, err := hostname.ASCII(s)
	if _, isAddr := hostname.Address(s); isAddr {
		d.errorf(v.node, v.key, "%q is an address, which no client names in TLS (host names, or leave it out)", s)
	} else if err != nil {
		d.errorf(v.node, v.key, "%q %v", s, err)
	}
	return host
}

// domain reads a host name to obtain a certificate for, and returns it as
// hostname.ASCII does.
func (d *decoder) domain(v *value, s string) any {
	domain, err := hostname.ASCII(s)
	_, isAddr := hostname.Address(s)
	switch {
	case strings.Contains(s, "*"):
		d.errorf(v.node, v.key, "%q is a wildcard, which needs a challenge by DNS (list each host name)", s)
	case isAddr:
		d.errorf(v.node, v.key, "%q is an address, for which there is no certificate (a host name, like home.example.org)", s)
	case err != nil:
		d.errorf(v.node, v.key, "%q %v", s, err)
	}
	return domain
}

func (d *decoder) email(v *value, s string) any {
	if address, err := mail.ParseAddress(s); err != nil || address.Address != s {
		d.errorf(v.node, v.key, "%q is not an email address (like me@example.org)", s)
	}
	return s
}

// directory reads the URL of an ACME authority.
func (d *decoder) directory(v *value, s string) any {
	if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		d.errorf(v.node, v.key, "%q is not an https URL (like https://acme-v02.api.letsencrypt.org/directory)", s)
	}
	return s
}

var errNoPath = errors.New("is empty (a path starts with /)")

// requestPath reads the path of a request, as it is compared.
func (d *decoder) requestPath(v *value, s string) any {
	if strings.ContainsAny(s, "{}") {
		d.errorf(v.node, v.key, "only steps have templates (write a path as it is)")
		return nil
	}
	if err := sequence.Exact(s).Validate(); err != nil || s == "" {
		d.errorf(v.node, v.key, "%v", cmp.Or(err, errNoPath))
		return nil
	}
	if strings.Contains(s, "*") {
		d.warnf(v.node, v.key, "a * stands for itself here, not for any text (list each path)")
	}
	return s
}

// stepPath reads the path of a step: exact, by its hash, or a template.
func (d *decoder) stepPath(v *value, s string) any {
	switch s {
	case "":
		d.errorf(v.node, v.key, "%v", errNoPath)
		return nil
	case hashPrefix:
		d.errorf(v.node, v.key, "the hash is missing (webknock hash prints one)")
		return nil
	}
	return s
}

func (d *decoder) regex(v *value, s string) any {
	if isTemplate(s) {
		d.errorf(v.node, v.key, "a regex holds no {totp} and no {ticket} (write a path with it)")
	}
	return s
}

// host reads the host of a step, and returns it as it is compared: without its
// port.
func (d *decoder) host(v *value, s string) any {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil && port != "" {
		host = h
	}
	if addr, isAddr := hostname.Address(host); isAddr {
		return addr.WithZone("").String()
	}
	ascii, err := hostname.ASCII(host)
	switch {
	case strings.Contains(host, "*"):
		d.errorf(v.node, v.key, "%q is a wildcard, which stands for itself alone here (one host name, or leave it out for any)", s)
	case err != nil:
		d.errorf(v.node, v.key, "%q %v", s, err)
	}
	return ascii
}
