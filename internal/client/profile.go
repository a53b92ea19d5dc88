package client

import (
	"bytes"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/net/idna"
)

// A Profile is what a client needs to knock somewhere. The file that holds it
// has the same keys.
type Profile struct {
	Name string // of the profile; empty: it has none

	Servers []Server      // at least one; each gets every knock
	Steps   []Step        // at least one
	User    string        // for one-time steps; empty: none
	Secret  []byte        // the user's, 16 to 64 bytes; nil: none
	Doors   []string      // that a ticket names; none: all that the sequence opens
	TTL     time.Duration // that a ticket asks for, whole seconds; 0: each door's own
	Address netip.Addr    // to open for; zero: the client's own
	Wait    string        // HOST:PORT that answers once the door is open; empty: nothing is waited for
	Family  Family
	Gap     time.Duration  // between two knocks
	CA      *x509.CertPool // roots to trust instead of the system's; nil: the system's
	Pin     []byte         // SHA-256 of the server's public key (RFC 7469); nil: none
	Proxy   Proxy
}

// A Server is where knocks go.
type Server struct {
	Scheme string // http or https
	Host   string // name or address
	Port   string // 1 to 65535
}

// String writes a server as a URL.
func (s Server) String() string {
	host := s.Host
	if s.Scheme == "http" && s.Port == "80" || s.Scheme == "https" && s.Port == "443" {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
	} else {
		host = net.JoinHostPort(host, s.Port)
	}
	return s.Scheme + "://" + host
}

// A Step is one request.
type Step struct {
	Path   string // decoded; {totp} and {ticket} stand for a one-time code
	Method string // empty: GET
	Host   string // of the Host field; empty: the server's
	Query  map[string]string
}

// The variables of a step's path.
const (
	varTOTP   = "{totp}"
	varTicket = "{ticket}"
)

// Family says over which of IPv4 and IPv6 to knock.
type Family string

// The families.
const (
	Both Family = "both"
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Proxy says how to reach the servers: "env" (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY
// and NO_PROXY decide), "none", or the URL of a proxy (http, https, socks5 or
// socks5h).
type Proxy string

// The words of Proxy.
const (
	ProxyEnv  Proxy = "env"
	ProxyNone Proxy = "none"
)

// A Draft is a profile as it is written: what a person types, not validated.
type Draft struct {
	Servers    []string `yaml:"servers"`
	Steps      []step   `yaml:"steps"`
	User       string   `yaml:"user,omitempty"`
	Secret     string   `yaml:"secret,omitempty"`
	SecretFile string   `yaml:"secret_file,omitempty"`
	Doors      []string `yaml:"doors,omitempty"`
	TTL        string   `yaml:"ttl,omitempty"`
	Address    string   `yaml:"address,omitempty"`
	Wait       string   `yaml:"wait,omitempty"`
	Family     string   `yaml:"family,omitempty"`
	Gap        string   `yaml:"gap,omitempty"`
	CA         string   `yaml:"ca,omitempty"`
	Pin        string   `yaml:"pin,omitempty"`
	Proxy      string   `yaml:"proxy,omitempty"`
}

// step is a step as it is written: a path, or a mapping.
type step Step

type stepFields struct {
	Path   string            `yaml:"path"`
	Method string            `yaml:"method,omitempty"`
	Host   string            `yaml:"host,omitempty"`
	Query  map[string]string `yaml:"query,omitempty"`
}

// UnmarshalYAML reads a path or a mapping.
func (s *step) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		s.Path = n.Value
		return nil
	}
	if n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			switch key := n.Content[i]; key.Value {
			case "path", "method", "host", "query":
			case "{totp}", "{ticket}", "totp", "ticket":
				return fmt.Errorf("line %d: braces need quotes (write \"/k/{totp}\")", key.Line)
			default:
				return fmt.Errorf("line %d: field %s not found in a step (path, method, host, query)", key.Line, key.Value)
			}
		}
	}
	var f stepFields
	if err := n.Decode(&f); err != nil {
		return err
	}
	*s = step(f)
	return nil
}

// MarshalYAML writes a step that has a path alone as that.
func (s step) MarshalYAML() (any, error) {
	if s.Method == "" && s.Host == "" && len(s.Query) == 0 {
		return s.Path, nil
	}
	return stepFields(s), nil
}

// ProfileDir returns the folder of the user's profiles.
func ProfileDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the folder of profiles: %w (name a profile by the path of its file)", err)
	}
	return filepath.Join(dir, "webknock", "profiles"), nil
}

var profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ProfilePath returns the file of a profile. What holds a slash (or a backslash
// on Windows) or ends in .yaml is the path of a file.
func ProfilePath(profile string) (string, error) {
	if strings.ContainsRune(profile, '/') || strings.ContainsRune(profile, filepath.Separator) || strings.HasSuffix(profile, ".yaml") {
		return profile, nil
	}
	if !profileName.MatchString(profile) {
		return "", fmt.Errorf("%q is not a valid name of a profile (1 to 64 of A–Z a–z 0–9 . _ -, starting with a letter or digit)", profile)
	}
	dir, err := ProfileDir()
	return filepath.Join(dir, profile+".yaml"), err
}

// A ProfileError is everything that is wrong with a profile.
type ProfileError struct {
	File     string
	Problems []string // each what is wrong (what would be right)
}

func (e *ProfileError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = e.File + ": " + p
	}
	return strings.Join(lines, "\n")
}

// Load reads a profile by its name or the path of its file. A file that others
// than its owner may read is refused, since it holds secrets.
func Load(profile string) (*Profile, error) {
	path, err := ProfilePath(profile)
	if err != nil {
		return nil, err
	}
	data, err := readPrivate(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no profile %s (webknock profile list shows them; webknock profile add makes one)", profile)
	}
	if err != nil {
		return nil, err
	}
	p, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	p.Name = strings.TrimSuffix(filepath.Base(path), ".yaml")
	return p, nil
}

const maxFile = 1 << 20 // bytes of a profile or a secret

// readPrivate reads a file that nobody but its owner may read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder (name a profile, or the path of its file)", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s can be read by others, and it holds secrets (chmod 600 %s)", path, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}

// Parse reads a profile. Relative paths in it begin at the folder of the file.
// Its errors hold no secret.
func Parse(file string, data []byte) (*Profile, error) {
	var f Draft
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		if err == io.EOF {
			err = errors.New("it is empty (servers and steps are needed)")
		}
		problems := plainYAML(err)
		if bareBraces.Match(data) {
			problems[0] += ` (a path with braces needs quotes: "/t/{ticket}")`
		}
		return nil, &ProfileError{file, problems}
	}
	if err := d.Decode(new(any)); err != io.EOF {
		return nil, &ProfileError{file, []string{"a second document follows (one profile a file)"}}
	}
	v := validator{file: file}
	p := v.profile(f)
	if len(v.problems) > 0 {
		return nil, &ProfileError{file, v.problems}
	}
	return p, nil
}

// bareBraces matches a variable in a list in brackets that has no quotes.
var bareBraces = regexp.MustCompile(`[\[,]\s*/[^"',\]\n]*\{(totp|ticket)\}`)

// plainYAML words the errors of the YAML decoder.
func plainYAML(err error) (problems []string) {
	var types *yaml.TypeError
	if !errors.As(err, &types) {
		return []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	unknown := regexp.MustCompile(`field (\S+) not found in type \S+`)
	value := regexp.MustCompile("cannot unmarshal (!!\\w+)(?: `.*`)? into .*")
	for _, e := range types.Errors {
		e = unknown.ReplaceAllString(e, "unknown key $1")
		e = value.ReplaceAllString(e, "a value of another kind is needed here") // the value may be a secret
		problems = append(problems, e)
	}
	return problems
}

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

// hostName returns the ASCII form of a name (IDNA, RFC 5891).
func hostName(host string) (string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(host, "."))
	if err != nil || ascii == "" {
		return "", fmt.Errorf("%q is not the name of a host", host)
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

// NewStep returns a step of a draft.
func NewStep(s Step) step { return step(s) }

// Text writes a draft as a file.
func (d Draft) Text() ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(d); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// Save keeps a profile under a name, mode 0600, if its text is valid. It
// refuses to replace one unless told to. Relative paths in the text count from
// the folder of profiles.
func Save(name string, text []byte, replace bool) (path string, err error) {
	if !profileName.MatchString(name) || strings.HasSuffix(name, ".yaml") {
		return "", fmt.Errorf("%q is not a valid name of a profile (1 to 64 of A–Z a–z 0–9 . _ -, starting with a letter or digit)", name)
	}
	if path, err = ProfilePath(name); err != nil {
		return "", err
	}
	if _, err := Parse(path, text); err != nil {
		return "", err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if !replace {
		if _, err := os.Lstat(path); err == nil {
			return "", fmt.Errorf("there is a profile %s already (webknock profile remove %s, or --replace)", name, name)
		}
	}
	f, err := os.CreateTemp(dir, "."+name+"-") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return path, err
}

// List returns the names of the user's profiles, in order.
func List() (names []string, err error) {
	dir, err := ProfileDir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok && profileName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Remove deletes a profile.
func Remove(name string) error {
	if !profileName.MatchString(name) {
		return fmt.Errorf("%q is not a valid name of a profile", name)
	}
	path, err := ProfilePath(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no profile %s (webknock profile list shows them)", name)
	} else if err != nil {
		return err
	}
	return nil
}

// String writes a proxy without its password.
func (p Proxy) String() string {
	if u, err := url.Parse(string(p)); err == nil && u.User != nil {
		return u.Redacted()
	}
	return string(p)
}
