package setup

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Wishes are what the administrator asks for.
type Wishes struct {
	Host string // by which clients reach the server; empty: as found
	Port uint16 // of the listener; 0: as found
	User string // who knocks with one-time tickets; empty: whoever knows the paths
}

// A Plan is a configuration that fits a host, and how clients reach it.
type Plan struct {
	SSH    []uint16 // guarded
	Port   uint16   // of the listener
	Site   *Site    // that has the ports for the web and passes knocks on; nil: none
	Host   string
	Server string // where clients knock, a URL
	User   string
	Steps  []string
}

// Ports for a listener, the best first: what gets out of most networks.
var listenerPorts = []uint16{80, 8080, 8000, 8081, 8088, 8888}

// loopbackPorts are those for a listener behind a site.
var loopbackPorts = []uint16{8080, 8081, 8082, 8088, 8089, 8090}

// NewPlan makes a plan. Path returns a new secret path each time.
func NewPlan(f *Facts, w Wishes, path func() string) (p Plan, err error) {
	if p.SSH = f.SSHPorts(); len(p.SSH) == 0 {
		return p, errors.New("no SSH server was found that listens to the network (start it; as root also others than sshd's configuration names are found)")
	}
	if w.Port != 0 && slices.Contains(p.SSH, w.Port) {
		return p, fmt.Errorf("port %d is the SSH server's (another --port)", w.Port)
	}
	p.Host, p.User = cmp.Or(w.Host, serverOf(f.Session), f.Hostname), w.User
	if p.Host == "" {
		return p, errors.New("how clients reach this server is not known (--host NAME)")
	}
	if err := p.listen(f, w.Port); err != nil {
		return p, err
	}
	prefix := ""
	if p.Site != nil {
		prefix = "/knock"
	}
	if p.User != "" {
		p.Steps = []string{prefix + "/t/{ticket}"}
	} else {
		p.Steps = []string{prefix + path(), prefix + path(), prefix + path()}
	}
	return p, nil
}

// serverOf returns the address by which the administrator has come. A private one of a
// cloud's server is not what clients see, but nothing better is known.
func serverOf(s Session) string {
	if s.Server.Addr().IsValid() && !s.Server.Addr().IsLoopback() {
		return s.Server.Addr().String()
	}
	return ""
}

// HiddenBehind returns the address of this host that clients outside cannot reach, or
// nothing: the administrator has come from outside to a private one, through the
// translation of a cloud, say, and has not named another host.
func (f *Facts) HiddenBehind(w Wishes) string {
	server, client := f.Session.Server.Addr(), f.Session.Client.Addr()
	if w.Host != "" || !server.IsPrivate() || client.IsPrivate() || client.IsLinkLocalUnicast() {
		return ""
	}
	return server.String()
}

// listen chooses a listener, and where clients knock.
func (p *Plan) listen(f *Facts, port uint16) error {
	free := func(port uint16) bool { return len(f.At(port)) == 0 && !slices.Contains(p.SSH, port) }
	if port != 0 {
		if s := f.At(port); len(s) > 0 {
			return fmt.Errorf("port %d is taken by %s (another --port)", port, cmp.Or(s[0].Program, "another program"))
		}
		p.Port = port
	} else if p.Site = siteOf(f); p.Site != nil {
		p.Port = first(loopbackPorts, free)
		p.Site.Listener = p.Port
		p.Server = p.Site.url(p.Host)
	} else {
		p.Port = first(listenerPorts, free)
	}
	if p.Port == 0 {
		return errors.New("no usual port for a listener is free (choose one with --port)")
	}
	if p.Server == "" {
		p.Server = url("http", p.Host, p.Port)
	}
	return nil
}

func first(ports []uint16, fits func(uint16) bool) uint16 {
	if i := slices.IndexFunc(ports, fits); i >= 0 {
		return ports[i]
	}
	return 0
}

// url writes a server's URL.
func url(scheme, host string, port uint16) string {
	if scheme == "http" && port == 80 || scheme == "https" && port == 443 {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return scheme + "://" + host
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// Config returns the text of the configuration. The user is not in it yet: the one who
// writes the file puts the user there, with a secret.
func (p *Plan) Config() string {
	var b strings.Builder
	b.WriteString("# Made by webknock init. What is in steps is the secret. webknock.yaml(5) has all keys.\n")
	if p.Site == nil {
		fmt.Fprintf(&b, "listeners:\n  - address: \":%d\"\n", p.Port)
	} else {
		fmt.Fprintf(&b, "listeners:\n  - address: 127.0.0.1:%d      # %s passes knocks on\n    proxies: [127.0.0.1]\n    client_address: %s\n    cover: {status: 404}\n", p.Port, p.Site.Program, p.Site.ClientAddress)
	}
	ports := make([]string, len(p.SSH))
	for i, port := range p.SSH {
		ports[i] = fmt.Sprintf("%d/tcp", port)
	}
	fmt.Fprintf(&b, "doors:\n  - name: ssh\n    ports: [%s]\n    ttl: 30s                    # to log in; sessions go on\n", strings.Join(ports, ", "))
	fmt.Fprintf(&b, "sequences:\n  - name: ssh\n    steps: [%s]\n", strings.Join(quoted(p.Steps), ", "))
	if p.User != "" {
		fmt.Fprintf(&b, "    users: [%s]\n", p.User)
	} else {
		b.WriteString("    within: 10s                 # from one step to the next\n")
	}
	b.WriteString("    opens: [ssh]\n")
	return b.String()
}

// quoted puts those into quotation marks that YAML would read as something else.
func quoted(all []string) []string {
	out := slices.Clone(all)
	for i, s := range out {
		if strings.ContainsAny(s, "{}[],") {
			out[i] = `"` + s + `"`
		}
	}
	return out
}

// Curl returns the command line that knocks, or nothing if curl cannot.
func (p *Plan) Curl() string {
	if p.User != "" {
		return ""
	}
	dir := p.Steps[0][:strings.LastIndexByte(p.Steps[0], '/')+1]
	names := make([]string, len(p.Steps))
	for i, s := range p.Steps {
		names[i] = strings.TrimPrefix(s, dir)
	}
	return fmt.Sprintf("curl -s -m 10 -o /dev/null '%s%s{%s}'", p.Server, dir, strings.Join(names, ","))
}

// SSHLine returns the command line that logs in.
func (p *Plan) SSHLine() string {
	port := ""
	if p.SSH[0] != 22 {
		port = fmt.Sprintf(" -p %d", p.SSH[0])
	}
	return "ssh" + port + " " + p.Host
}

func parsePort(text string) uint16 {
	n, _ := strconv.ParseUint(text, 10, 16)
	return uint16(n)
}

// isName reports whether a host is a name and no address.
func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil
}
