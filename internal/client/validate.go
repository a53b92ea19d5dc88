package client

import (
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"webknock/internal/hostname"
)

type validator struct {
	file     string
	problems []string
}

func (v *validator) errorf(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

// path returns a path that the profile names.
func (v *validator) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(v.file), name)
}

func (v *validator) profile(f Draft) *Profile {
	p := &Profile{User: f.User, Doors: f.Doors, Family: Both, Proxy: ProxyEnv}
	if len(f.Servers) == 0 {
		v.errorf("servers: none is named (write servers: [https://home.example.org])")
	}
	for i, s := range f.Servers {
		server, err := ParseServer(s)
		if err != nil {
			v.errorf("servers[%d]: %v", i, err)
		}
		p.Servers = append(p.Servers, server)
	}
	if len(f.Steps) == 0 {
		v.errorf("steps: none is named (write steps: [/a, /b, /c])")
	}
	for i, s := range f.Steps {
		v.step(fmt.Sprintf("steps[%d]", i), Step(s))
		p.Steps = append(p.Steps, Step(s))
	}
	v.user(f, p)
	if f.TTL != "" {
		ttl, err := time.ParseDuration(f.TTL)
		switch {
		case err != nil || ttl < time.Second || ttl > 24*time.Hour:
			v.errorf("ttl: %q is not a duration from 1s to 24h (write 30s or 1h)", f.TTL)
		case ttl%time.Second != 0:
			v.errorf("ttl: %q is not in whole seconds (a ticket has no room for less)", f.TTL)
		}
		p.TTL = ttl
	}
	if f.Address != "" {
		address, err := netip.ParseAddr(f.Address)
		if err != nil || address.Zone() != "" || address.Is4In6() || address.IsUnspecified() || address.IsMulticast() || address.IsLoopback() {
			v.errorf("address: %q is not the address of a host (write 192.0.2.7 or 2001:db8::7)", f.Address)
		}
		p.Address = address
	}
	if asks := f.TTL != "" || f.Address != "" || len(f.Doors) > 0; asks && !p.uses(varTicket) {
		v.errorf("doors, ttl and address are asked for by a ticket, and no step has {ticket} (remove them, or add such a step)")
	}
	if f.Wait != "" {
		if _, _, err := splitHostPort(f.Wait); err != nil {
			v.errorf("wait: %q: %v", f.Wait, err)
		}
		p.Wait = f.Wait
	}
	switch family := Family(f.Family); family {
	case "":
	case Both, IPv4, IPv6:
		p.Family = family
	default:
		v.errorf("family: %q is not a family (both, ipv4 or ipv6)", f.Family)
	}
	if f.Gap != "" {
		gap, err := time.ParseDuration(f.Gap)
		if err != nil || gap < 0 || gap > time.Minute {
			v.errorf("gap: %q is not a duration up to 1m (write 500ms)", f.Gap)
		}
		p.Gap = gap
	}
	v.trust(f, p)
	if f.Proxy != "" {
		if err := Proxy(f.Proxy).validate(); err != nil {
			v.errorf("proxy: %v", err)
		}
		p.Proxy = Proxy(f.Proxy)
	}
	return p
}

// count returns how many steps hold a variable.
func (p *Profile) count(variable string) (n int) {
	for _, s := range p.Steps {
		n += strings.Count(s.Path, variable)
	}
	return n
}

func (p *Profile) uses(variable string) bool { return p.count(variable) > 0 }

// ParseServer reads the URL of a server.
func ParseServer(s string) (Server, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Server{}, errors.New("not a URL of a server (write https://home.example.org or http://192.0.2.1:8080)")
	}
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return Server{}, errors.New("a server is scheme, host and port alone (put the path into steps)")
	}
	server := Server{Scheme: u.Scheme, Host: u.Hostname(), Port: u.Port()}
	if server.Port == "" {
		server.Port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if !isPort(server.Port) {
		return Server{}, fmt.Errorf("port %q is not a number from 1 to 65535", server.Port)
	}
	if server.Host, err = hostName(server.Host); err != nil {
		return Server{}, err
	}
	return server, nil
}

var zone = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// hostName returns the ASCII form of a name (IDNA, RFC 5891).
func hostName(host string) (string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" && !zone.MatchString(a.Zone()) {
			return "", fmt.Errorf("%q does not end in the name of an interface", host)
		}
		return host, nil
	}
	ascii, err := hostname.ASCII(host)
	if err != nil {
		return "", fmt.Errorf("%q %w", host, err)
	}
	return ascii, nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// splitHostPort splits HOST:PORT, both of which are needed.
func splitHostPort(s string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(s)
	if err != nil || host == "" || !isPort(port) {
		return "", "", errors.New("not HOST:PORT (write home.example.org:22 or [2001:db8::7]:22)")
	}
	host, err = hostName(host)
	return host, port, err
}

func (v *validator) step(key string, s Step) {
	switch variables := strings.Count(s.Path, varTOTP) + strings.Count(s.Path, varTicket); {
	case !strings.HasPrefix(s.Path, "/"):
		v.errorf("%s: a path starts with /", key)
	case strings.ContainsAny(s.Path, "?#"):
		v.errorf("%s: a path holds no ? and no # (write {path: /b, query: {k: v}})", key)
	case variables > 1:
		v.errorf("%s: a path holds one {totp} or {ticket}", key)
	case variables == 0 && strings.ContainsAny(s.Path, "{}"):
		v.errorf("%s: braces stand for a one-time code, {totp} or {ticket}", key)
	}
	if strings.ContainsFunc(s.Method, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || s.Method != strings.ToUpper(s.Method) {
		v.errorf("%s: method %q is not an HTTP method (write GET or POST)", key, s.Method)
	}
	if strings.ContainsAny(s.Host, "/ ") {
		v.errorf("%s: host %q is not the name of a host", key, s.Host)
	}
}

var userName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// user reads the user and the secret.
func (v *validator) user(f Draft, p *Profile) {
	needs := p.uses(varTOTP) || p.uses(varTicket)
	switch {
	case f.User != "" && !userName.MatchString(f.User):
		v.errorf("user: %q is not a name (1 to 32 of a–z 0–9 _ -, starting with a letter)", f.User)
	case f.User == "" && p.uses(varTicket):
		v.errorf("user: a ticket names its user (write user: alice)")
	}
	for i, door := range f.Doors {
		if !userName.MatchString(door) {
			v.errorf("doors[%d]: %q is not the name of a door", i, door)
		}
	}
	text := f.Secret
	switch {
	case f.Secret != "" && f.SecretFile != "":
		v.errorf("secret: there is a secret_file as well (keep one of them)")
		return
	case f.SecretFile != "":
		data, err := readPrivate(v.path(f.SecretFile))
		if err != nil {
			v.errorf("secret_file: %v", err)
			return
		}
		text = string(data)
	case f.Secret == "":
		if needs {
			v.errorf("secret: a one-time step needs one (write secret: BASE32 or secret_file: FILE)")
		}
		return
	}
	secret, err := parseSecret(text)
	if err != nil {
		v.errorf("secret: %v", err)
	}
	p.Secret = secret
}

// parseSecret reads a secret in base32 (RFC 4648 section 6) on one line. Case
// and spaces do not count, and padding may be left out.
func parseSecret(text string) ([]byte, error) {
	line := strings.ToUpper(strings.TrimRight(strings.ReplaceAll(strings.TrimSpace(text), " ", ""), "="))
	encoding := base32.StdEncoding.WithPadding(base32.NoPadding)
	secret, err := encoding.DecodeString(line)
	if err != nil || encoding.EncodedLen(len(secret)) != len(line) || strings.ContainsAny(line, "\r\n") {
		return nil, errors.New("not base32 on one line (letters and the digits 2 to 7, as webknock user add writes them)")
	}
	if len(secret) < 16 || len(secret) > 64 {
		return nil, fmt.Errorf("%d bytes long (16 to 64)", len(secret))
	}
	return secret, nil
}

// trust reads whom to trust.
func (v *validator) trust(f Draft, p *Profile) {
	if f.CA != "" {
		pem, err := os.ReadFile(v.path(f.CA))
		p.CA = x509.NewCertPool()
		switch {
		case err != nil:
			v.errorf("ca: %v", err)
		case !p.CA.AppendCertsFromPEM(pem):
			v.errorf("ca: %s holds no certificate in PEM", f.CA)
		}
	}
	if f.Pin != "" {
		hash, ok := strings.CutPrefix(f.Pin, "sha256//")
		pin, err := base64.StdEncoding.DecodeString(hash)
		if !ok || err != nil || len(pin) != 32 {
			v.errorf("pin: not a pin (write sha256//BASE64, as curl --pinnedpubkey has it)")
		}
		p.Pin = pin
	}
	tls := slices.ContainsFunc(p.Servers, func(s Server) bool { return s.Scheme == "https" })
	if (f.CA != "" || f.Pin != "") && !tls {
		v.errorf("ca and pin say whom to trust by TLS, and no server is https")
	}
}

func (p Proxy) validate() error {
	if p == ProxyEnv || p == ProxyNone {
		return nil
	}
	u, err := url.Parse(string(p))
	if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
		return errors.New("not env, none or the URL of a proxy (write http://proxy.example.org:3128 or socks5://127.0.0.1:1080)")
	}
	return nil
}
