package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"
)

// A dialer opens connections to the servers of a profile.
type dialer struct{ p *Profile }

// proxyOf returns the proxy for a server, or nil.
func (d dialer) proxyOf(s Server) (*url.URL, error) {
	switch d.p.Proxy {
	case ProxyNone:
		return nil, nil
	case ProxyEnv:
		c := httpproxy.FromEnvironment()
		all := first(os.Getenv("ALL_PROXY"), os.Getenv("all_proxy"))
		c.HTTPProxy, c.HTTPSProxy = first(c.HTTPProxy, all), first(c.HTTPSProxy, all)
		u, err := c.ProxyFunc()(&url.URL{Scheme: s.Scheme, Host: net.JoinHostPort(s.Host, s.Port)})
		if err != nil {
			return nil, errors.New("the proxy of the environment is not a URL (http://proxy.example.org:3128)")
		}
		return u, nil
	}
	return url.Parse(string(d.p.Proxy))
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// A route is one way to a server: an address, or a proxy that finds it.
type route struct {
	family Family     // "" behind a proxy, which chooses
	addr   netip.Addr // zero behind a proxy
	proxy  *url.URL
}

// routes returns the ways to a server, IPv6 before IPv4, at most one for each
// address.
func (d dialer) routes(ctx context.Context, s Server) ([]route, error) {
	via, err := d.proxyOf(s)
	if err != nil {
		return nil, err
	}
	if via != nil {
		return []route{{proxy: via}}, nil
	}
	addrs, err := resolve(ctx, s.Host)
	if err != nil {
		return nil, err
	}
	var all []route
	for _, a := range addrs {
		if f := familyOf(a); d.p.Family == Both || d.p.Family == f {
			all = append(all, route{family: f, addr: a})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no %s address", s.Host, d.p.Family)
	}
	slices.SortStableFunc(all, func(a, b route) int { return -strings.Compare(string(a.family), string(b.family)) })
	return all, nil
}

func familyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// resolve returns the addresses of a host.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return slices.Compact(addrs), nil
}

// A conn is a connection on which one request can be made.
type conn struct {
	net.Conn
	absolute *url.URL      // the proxy that wants the whole URL; nil: none
	took     time.Duration // until the server or the proxy accepted
}

// dial opens a new connection to a server, with TLS if it is https.
func (d dialer) dial(ctx context.Context, s Server, r route) (*conn, error) {
	target := net.JoinHostPort(s.Host, s.Port)
	c := new(conn)
	began := time.Now()
	var err error
	switch {
	case r.proxy == nil:
		c.Conn, err = dialTCP(ctx, net.JoinHostPort(r.addr.String(), s.Port))
	case strings.HasPrefix(r.proxy.Scheme, "socks5"):
		c.Conn, err = dialSOCKS(ctx, r.proxy, target)
	default:
		c.Conn, err = dialHTTPProxy(ctx, r.proxy, target, s.Scheme == "https")
		if s.Scheme == "http" {
			c.absolute = r.proxy
		}
	}
	if err != nil {
		return nil, err
	}
	c.took = time.Since(began)
	if s.Scheme != "https" {
		return c, nil
	}
	secure := tls.Client(c.Conn, d.tlsConfig(s))
	if err := secure.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	c.Conn = secure
	return c, nil
}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// tlsConfig returns whom to trust. A pin takes the place of the chain of trust,
// so that a self-signed certificate will do.
func (d dialer) tlsConfig(s Server) *tls.Config {
	c := &tls.Config{ServerName: s.Host, RootCAs: d.p.CA, NextProtos: []string{"http/1.1"}}
	if d.p.Pin != nil {
		c.InsecureSkipVerify = true // VerifyConnection checks the key
		c.VerifyConnection = func(state tls.ConnectionState) error {
			sum := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if !bytes.Equal(sum[:], d.p.Pin) {
				return errPin
			}
			return nil
		}
	}
	return c
}

var errPin = errors.New("the server's public key is not the one that the profile pins")

// A proxyError is a proxy's refusal.
type proxyError struct{ status string }

func (e proxyError) Error() string { return "the proxy refuses: " + e.status }

// dialHTTPProxy connects to a proxy. For a tunnel it asks the proxy to connect to the target
// (RFC 9110 section 9.3.6).
func dialHTTPProxy(ctx context.Context, p *url.URL, target string, tunnel bool) (net.Conn, error) {
	port := first(p.Port(), map[string]string{"http": "80", "https": "443"}[p.Scheme])
	c, err := dialTCP(ctx, net.JoinHostPort(p.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("reach the proxy: %w", err)
	}
	if p.Scheme == "https" {
		secure := tls.Client(c, &tls.Config{ServerName: p.Hostname()})
		if err := secure.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, fmt.Errorf("reach the proxy: TLS: %w", err)
		}
		c = secure
	}
	if !tunnel {
		return c, nil
	}
	defer interrupt(ctx, c)()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	authorize(req, p)
	if err := req.Write(c); err != nil {
		c.Close()
		return nil, fmt.Errorf("reach the proxy: %w", err)
	}
	// Nothing follows the head of the answer until the target has been spoken to.
	res, err := http.ReadResponse(bufio.NewReader(oneByte{c}), req)
	if err == nil && res.StatusCode != http.StatusOK {
		err = proxyError{res.Status}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// oneByte reads byte by byte, so that no byte behind the head is taken.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// authorize adds the user and password of a proxy's URL.
func authorize(req *http.Request, p *url.URL) {
	if p.User == nil {
		return
	}
	password, _ := p.User.Password()
	basic := http.Request{Header: http.Header{}}
	basic.SetBasicAuth(p.User.Username(), password)
	req.Header.Set("Proxy-Authorization", basic.Header.Get("Authorization"))
}

// dialSOCKS has a SOCKS5 proxy connect to the target (RFC 1928), which it
// resolves itself.
func dialSOCKS(ctx context.Context, p *url.URL, target string) (net.Conn, error) {
	var auth *proxy.Auth
	if p.User != nil {
		password, _ := p.User.Password()
		auth = &proxy.Auth{User: p.User.Username(), Password: password}
	}
	socks, err := proxy.SOCKS5("tcp", net.JoinHostPort(p.Hostname(), first(p.Port(), "1080")), auth, new(net.Dialer))
	if err != nil {
		return nil, err
	}
	c, err := socks.(proxy.ContextDialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, fmt.Errorf("through the proxy: %w", err)
	}
	return c, nil
}

// interrupt breaks off what is being read and written when ctx is done, until
// the returned function is called.
func interrupt(ctx context.Context, c net.Conn) (stop func()) {
	after := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	return func() { after() }
}

// Outcome is what became of a knock.
type Outcome string

// The outcomes. The first four are success so far: whether a knock counted, no
// answer tells.
const (
	Reset   Outcome = "reset"
	Closed  Outcome = "closed"
	Silence Outcome = "silence"
	Answer  Outcome = "answer"

	Unresolved  Outcome = "unresolved"  // the name has no address
	Refused     Outcome = "refused"     // nobody listens on the port
	Unreachable Outcome = "unreachable" // no route to the address, or no network
	Timeout     Outcome = "timeout"     // the port does not answer
	Untrusted   Outcome = "untrusted"   // the certificate or the key is not the right one
	ProxyFailed Outcome = "proxy"       // the proxy refuses or cannot be reached
	Failed      Outcome = "failed"      // anything else
)

// Delivered reports whether the server may have got the knock.
func (o Outcome) Delivered() bool {
	return slices.Contains([]Outcome{Reset, Closed, Silence, Answer}, o)
}

// failure sorts an error of a connection that was not made.
func failure(err error) Outcome {
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var refused proxyError
	switch {
	case errors.As(err, &refused), strings.Contains(err.Error(), "the proxy"):
		return ProxyFailed
	case errors.As(err, &dns):
		return Unresolved
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &name), errors.Is(err, errPin):
		return Untrusted
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return Unreachable
	case isTimeout(err):
		return Timeout
	}
	return Failed
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// answerTimeout is how long an answer is waited for. A silent server resets, or
// keeps silent.
const answerTimeout = 3 * time.Second

// request makes one request on a connection and closes it.
func (c *conn) request(ctx context.Context, s Server, step Step, path string) (o Outcome, status int, date time.Time) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer interrupt(ctx, c)()
	host := net.JoinHostPort(s.Host, s.Port)
	if s.Scheme == "http" && s.Port == "80" || s.Scheme == "https" && s.Port == "443" {
		host = strings.TrimSuffix(host, ":"+s.Port)
	}
	u := &url.URL{Scheme: s.Scheme, Host: host, Path: path}
	if len(step.Query) > 0 {
		q := url.Values{}
		for k, v := range step.Query {
			q.Set(k, v)
		}
		u.RawQuery = q.Encode()
	}
	req := &http.Request{
		Method: first(step.Method, http.MethodGet), URL: u, Host: first(step.Host, host), Close: true,
		Header: http.Header{"User-Agent": {""}},
	}
	write := req.Write
	if c.absolute != nil {
		authorize(req, c.absolute)
		write = req.WriteProxy
	}
	if err := write(c); err != nil {
		if o := ended(err); o == Reset {
			return o, 0, date
		}
		return Failed, 0, date // it may not have left this machine
	}
	res, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return ended(err), 0, date
	}
	date, _ = http.ParseTime(res.Header.Get("Date"))
	return Answer, res.StatusCode, date
}

// ended returns the outcome for a connection that ended without an answer.
func ended(err error) Outcome {
	switch {
	case isTimeout(err):
		return Silence
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.Contains(err.Error(), "forcibly closed"):
		return Reset
	}
	return Closed
}
