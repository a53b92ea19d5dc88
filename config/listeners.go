package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"webknock/internal/hostname"
)

func (d *decoder) listener(n *yaml.Node, key string, cfg *Config) {
	l := Listener{MaxConnections: 16384, ClientAddress: "peer"}
	there := d.mapping(n, key, fields{
		"address": func(n *yaml.Node, key string) {
			var ok bool
			if l.Address, ok = d.text(n, key); !ok {
				return
			}
			if name, ok := strings.CutPrefix(l.Address, "systemd:"); ok {
				if !socketName.MatchString(name) {
					d.errorf(n, key, "%q is not a valid name of a socket (systemd:NAME, as FileDescriptorName= has it)", name)
				}
			} else {
				host, port, err := net.SplitHostPort(l.Address)
				p, perr := strconv.ParseUint(port, 10, 16)
				addr, isAddr := hostname.Address(host)
				switch {
				case err != nil || perr != nil || p == 0:
					d.errorf(n, key, "%q is not a valid address (host:port, like :8080 or 192.0.2.1:80, or systemd:NAME)", l.Address)
				case isAddr && (addr.IsMulticast() || addr == broadcast):
					d.errorf(n, key, "%s is an address of many hosts (one of this host's)", host)
				}
			}
			for _, o := range cfg.Listeners {
				if l.conflicts(o) {
					d.errorf(n, key, "another listener has %s already (each its own address and port)", o.Address)
				}
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
	d.need(n, key, there, "address", "host:port, like :8080, or systemd:NAME")
	if named := l.ClientAddress != "peer"; named != (len(l.Proxies) > 0) && !d.wrong(key+".proxies", key+".client_address") {
		if named && !there.meant["proxies"] {
			d.errorAt(key+".client_address", "%s, but nobody may say so (name the networks of your proxies in proxies)", l.ClientAddress)
		} else if !named && !there.meant["client_address"] {
			d.errorAt(key+".proxies", "they may speak for clients, but how? (client_address: x-forwarded-for, forwarded, x-real-ip or proxy-protocol)")
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
		"certificate":  d.certificateFile(&t.Certificate),
		"key":          d.certificateKey(&t.Key),
		"acme":         func(n *yaml.Node, key string) { t.ACME = d.acme(n, key) },
		"server_names": func(n *yaml.Node, key string) { d.hosts(&t.ServerNames)(n, key) },
	})
	if t.ACME != nil {
		if there.has("certificate", "key") {
			d.errorAt(key+".acme", "stands beside certificate or key (either acme, or both of them)")
		}
		for i, name := range t.ServerNames {
			if !slices.Contains(t.ACME.Domains, name) && !d.wrong(key) {
				d.warnAt(fmt.Sprintf("%s.server_names[%d]", key, i), "%s is not among the domains of acme, so that there is no certificate for it", name)
			}
		}
		return t
	}
	if there.meant["acme"] {
		return t
	}
	d.need(n, key, there, "certificate", "a chain in PEM, or acme")
	d.need(n, key, there, "key", "the private key of the certificate, in PEM")
	if t.Certificate != "" && t.Key != "" && d.kept != nil {
		d.keptCertificate(t, key)
	} else if t.Certificate != "" && t.Key != "" {
		pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			d.errorAt(key+".certificate", "cannot be used: %v (a chain and its key, in PEM)", err)
			return t
		}
		if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
			d.warnAt(key+".certificate", "is valid from %s to %s only, so that browsers refuse it now (renew it)", pair.Leaf.NotBefore.Format(time.DateOnly), pair.Leaf.NotAfter.Format(time.DateOnly))
		}
		for i, name := range t.ServerNames {
			if pair.Leaf.VerifyHostname(name) != nil {
				d.warnAt(fmt.Sprintf("%s.server_names[%d]", key, i), "the certificate is not one for %s, so that browsers refuse it (a certificate that has the name, or leave it out)", name)
			}
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
				domain, err := hostname.ASCII(s)
				_, isAddr := hostname.Address(s)
				switch {
				case !ok:
				case strings.Contains(s, "*"):
					d.errorf(n, key, "%q is a wildcard, which needs a challenge by DNS (list each host name)", s)
				case isAddr:
					d.errorf(n, key, "%q is an address, for which there is no certificate (a host name, like home.example.org)", s)
				case err != nil:
					d.errorf(n, key, "%q %v", s, err)
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
				d.errorf(n, key, "%q is not an email address (like me@example.org)", s)
			}
			a.Email = s
		},
		"directory": func(n *yaml.Node, key string) {
			s, ok := d.text(n, key)
			if u, err := url.Parse(s); ok && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "") {
				d.errorf(n, key, "%q is not an https URL (like https://acme-v02.api.letsencrypt.org/directory)", s)
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
	d.need(n, key, there, "domains", "at least one host name, like [home.example.org]")
	return a
}

// hosts reads a list of host names that clients name in TLS.
func (d *decoder) hosts(to *[]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, key string) {
		d.list(n, key, func(n *yaml.Node, key string) {
			s, ok := d.text(n, key)
			host, err := hostname.ASCII(s)
			_, isAddr := hostname.Address(s)
			switch {
			case !ok:
			case isAddr:
				d.errorf(n, key, "%q is an address, which no client names in TLS (host names, or leave it out)", s)
			case err != nil:
				d.errorf(n, key, "%q %v", s, err)
			}
			*to = append(*to, host)
		})
	}
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// port returns the port of a listener's address, or 0 if systemd knows it.
func (l Listener) port() uint16 {
	_, port, _ := net.SplitHostPort(l.Address)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

// addr returns the address a listener binds; the zero Addr stands for a name, and
// for what systemd has bound.
func (l Listener) addr() netip.Addr {
	host, _, err := net.SplitHostPort(l.Address)
	if host == "" && err == nil {
		return netip.IPv6Unspecified()
	}
	addr, _ := netip.ParseAddr(host)
	return addr.Unmap()
}

// conflicts reports whether two listeners cannot be bound at once. An unspecified
// IPv6 address takes IPv4 as well.
func (l Listener) conflicts(o Listener) bool {
	a, b := l.addr(), o.addr()
	switch {
	case l.Address == "":
		return false
	case l.Address == o.Address:
		return true
	case l.port() == 0 || l.port() != o.port():
		return false
	case a == netip.IPv6Unspecified() || b == netip.IPv6Unspecified():
		return true
	}
	return a.IsValid() && b.IsValid() && (a == b || a.Is4() && b.Is4() && (a.IsUnspecified() || b.IsUnspecified()))
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
				d.errorf(n, key, "%q is not the address of a site (like http://127.0.0.1:8081)", s)
			default:
				c.Proxy = u
			}
		},
	})
	switch {
	case !there.known || there.others:
	case there.has("status") == there.has("proxy"):
		d.errorf(n, key, "needs either status or proxy (or write drop)")
	case there.has("body_file") && there.has("proxy"):
		d.errorAt(key+".body_file", "a real site gives its own answers (leave it out, or status in place of proxy)")
	case c.Body != nil && (c.Status == http.StatusNoContent || c.Status == http.StatusNotModified):
		d.errorAt(key+".body_file", "an answer %d has no body (another status, or leave it out)", c.Status)
	}
	return c
}

const maxBody = 1 << 20 // bytes of a constant response
