package client

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
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

// String writes a proxy without its password.
func (p Proxy) String() string {
	if u, err := url.Parse(string(p)); err == nil && u.User != nil {
		return u.Redacted()
	}
	return string(p)
}
