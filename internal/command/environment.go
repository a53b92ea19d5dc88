package command

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"webknock/firewall"
)

// Bounds of what a request puts into the environment of a command, in bytes.
const (
	maxValue = 4 << 10  // of one value
	maxTotal = 32 << 10 // of all names and values
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A Request is a knock, with what a command is told of its connection.
type Request struct {
	*http.Request
	Client   netip.Addr     // whom the knock counts for
	Remote   netip.AddrPort // the other end of the connection
	Local    netip.AddrPort // this end
	TLS      bool
	Software string // what received it, as webknock/1.0
}

// own begins the names of variables that webknock itself has made up. The
// configuration does not replace them.
const own = "WEBKNOCK_"

// environment returns the whole environment of a command.
func (o Occasion) environment(c Command) []string { return c.environment(o.variables()) }

// environment returns the whole environment of a command that is told of variables.
func (c Command) environment(variables []string) []string {
	env := []string{defaultPath}
	for _, v := range variables {
		if !strings.HasPrefix(v, own) {
			env = append(env, v)
		}
	}
	env = append(env, c.Environment...)
	for _, v := range variables {
		if strings.HasPrefix(v, own) {
			env = append(env, v)
		}
	}
	return env
}

// variables returns what a command is told of an occasion.
func (o Occasion) variables() (all []string) {
	if o.Request != nil {
		all = o.Request.environment()
	} else {
		all = append(all, "REMOTE_ADDR="+o.Client.Addr().String())
	}
	for _, v := range [][2]string{
		{"EVENT", string(o.Event)}, {"SEQUENCE", o.Sequence}, {"CLIENT", firewall.ClientString(o.Client)}, {"USER", o.User},
		{"DOOR", o.Door}, {"GRANT", o.Grant}, {"REASON", o.Reason},
	} {
		if v[1] != "" {
			all = append(all, own+v[0]+"="+v[1])
		}
	}
	if !o.Expires.IsZero() {
		all = append(all, own+"EXPIRES="+o.Expires.Format(time.RFC3339))
	}
	return all
}

// told are the variables that a command may be told of, beside those that begin with
// HTTP_ and with WEBKNOCK_.
var told = []string{
	"GATEWAY_INTERFACE", "SERVER_SOFTWARE", "SERVER_PROTOCOL", "SERVER_NAME", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_PORT", "HTTPS",
	"REQUEST_METHOD", "REQUEST_URI", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH",
}

// CheckVariables returns an error unless a command may be told of variables. LD_PRELOAD,
// for example, would make another program of it.
func CheckVariables(variables []string) error {
	size := 0
	for _, v := range variables {
		size += len(v) + 1
		name, _, found := strings.Cut(v, "=")
		switch {
		case !found || strings.ContainsRune(v, 0):
			return fmt.Errorf("%.100q is no variable", v)
		case strings.HasPrefix(name, "HTTP_") && name != "HTTP_PROXY" || strings.HasPrefix(name, own) || slices.Contains(told, name):
		default:
			return fmt.Errorf("a command is not told of %.100s", name)
		}
	}
	if size > 2*maxTotal {
		return fmt.Errorf("variables of %d bytes (%d at most)", size, 2*maxTotal)
	}
	return nil
}

// environment returns the meta-variables of a request (RFC 3875 section 4.1).
//
// A stranger chose most of the values. A variable is left out if it holds a
// control character, begins as a shell function does, or exceeds a bound; and
// so are Authorization and Proxy-Authorization (section 4.1.18), Proxy, which
// would be taken for the setting HTTP_PROXY, and fields with other than letters,
// digits and hyphens in their names, which could pass for others.
func (r *Request) environment() []string {
	var v variables
	v.add("GATEWAY_INTERFACE", "CGI/1.1")
	v.add("SERVER_SOFTWARE", r.Software)
	v.add("SERVER_PROTOCOL", r.Proto)
	if name := r.serverName(); name != "" {
		v.add("SERVER_NAME", name)
	}
	v.add("REMOTE_ADDR", r.Client.String())
	if r.Remote.Addr() == r.Client { // else it is a proxy's
		v.add("REMOTE_PORT", strconv.Itoa(int(r.Remote.Port())))
	}
	if r.Local.IsValid() {
		v.add("SERVER_PORT", strconv.Itoa(int(r.Local.Port())))
	}
	if r.TLS {
		v.add("HTTPS", "on")
	}
	v.add("REQUEST_METHOD", r.Method)
	v.add("REQUEST_URI", r.RequestURI)
	v.add("SCRIPT_NAME", "")
	v.add("PATH_INFO", r.URL.Path)
	v.add("QUERY_STRING", r.URL.RawQuery)
	if r.Host != "" {
		v.add("HTTP_HOST", r.Host)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		separator := ", "
		switch name {
		case "Authorization", "Proxy-Authorization", "Proxy", "Host":
			continue
		case "Cookie":
			separator = "; "
		}
		if strings.ContainsFunc(name, unsuitable) {
			continue
		}
		variable := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if name != "Content-Type" && name != "Content-Length" {
			variable = "HTTP_" + variable
		}
		v.add(variable, strings.Join(r.Header[name], separator))
	}
	return v.all
}

// unsuitable reports whether the name of a field may not hold a character.
func unsuitable(r rune) bool {
	return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// serverName returns the host that was asked for if it is a name or an address,
// and the address that was connected to otherwise.
func (r *Request) serverName() string {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		return hostString(a)
	}
	if host == "" || strings.ContainsFunc(host, func(c rune) bool { return c != '.' && c != '_' && unsuitable(c) }) {
		return hostString(r.Local.Addr())
	}
	return host
}

// hostString writes an address as a URI has it (RFC 3986 section 3.2.2).
func hostString(a netip.Addr) string {
	switch {
	case a.Is6():
		return "[" + a.String() + "]"
	case a.Is4():
		return a.String()
	}
	return ""
}

// variables are what may be told to a command.
type variables struct {
	all  []string
	size int
}

func (v *variables) add(name, value string) {
	size := len(name) + len(value) + len("=\x00")
	control := strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f })
	if control || strings.HasPrefix(value, "() {") || len(value) > maxValue || v.size+size > maxTotal {
		return
	}
	v.size += size
	v.all = append(v.all, name+"="+value)
}
