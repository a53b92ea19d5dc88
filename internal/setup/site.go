package setup

import (
	"fmt"
	"slices"
	"strings"
)

// A Site is a web server that has the ports for the web already.
type Site struct {
	Program       string
	ClientAddress string   // how it says who the client is
	Ports         []uint16 // of 80 and 443
	Listener      uint16   // the port on loopback to which it passes knocks on

	snippet string
}

// sites are the web servers that pass knocks on as docs/recipes has it, by the names of
// their processes. The snippets are parts of the recipes.
var sites = map[string]Site{
	"nginx": {Program: "nginx", ClientAddress: "x-real-ip", snippet: `# in the server { } of the site
location @missing {
	return 404;
}
location /knock/ {
	access_log off;
	proxy_pass http://127.0.0.1:8080;
	proxy_set_header Host $host;
	proxy_set_header X-Real-IP $remote_addr;
	proxy_intercept_errors on;
	error_page 404 = @missing;
}
# then: nginx -t && nginx -s reload
`},
	"caddy": {Program: "caddy", ClientAddress: "x-forwarded-for", snippet: `# in the block of the site
handle /knock/* {
	reverse_proxy 127.0.0.1:8080 {
		@all status 404
		handle_response @all {
			respond 404
		}
	}
}
# then: caddy reload --config /etc/caddy/Caddyfile
`},
	"apache2": {Program: "apache2", ClientAddress: "x-forwarded-for", snippet: `# in the VirtualHost of the site, after: a2enmod proxy_http
AllowEncodedSlashes NoDecode
ProxyPass /knock/ http://127.0.0.1:8080/knock/ nocanon
ProxyErrorOverride On 404
# then: apache2ctl configtest && apache2ctl graceful
`},
	"haproxy": {Program: "haproxy", ClientAddress: "proxy-protocol", snippet: `# in the frontend of the site
acl knock path_beg /knock/
use_backend webknock if knock
# and a backend
backend webknock
	http-reuse never
	http-response return status 404
	server webknock 127.0.0.1:8080 send-proxy-v2
# then: haproxy -c -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy
`},
}

func init() {
	httpd := sites["apache2"]
	httpd.Program = "httpd"
	httpd.snippet = strings.NewReplacer(", after: a2enmod proxy_http", "", "apache2ctl", "apachectl").Replace(httpd.snippet)
	sites["httpd"] = httpd
}

// siteOf returns the web server at port 80 or 443, if it is one that can pass knocks on.
func siteOf(f *Facts) *Site {
	var site *Site
	for _, port := range []uint16{443, 80} {
		for _, s := range f.At(port) {
			known, ok := sites[s.Program]
			if !ok || !s.outside() {
				continue
			}
			if site == nil {
				site = &known
			}
			if site.Program == known.Program && !slices.Contains(site.Ports, port) {
				site.Ports = append(site.Ports, port)
			}
		}
	}
	return site
}

// url returns where clients knock: by https, unless the site has no https or the host is
// an address, for which there is no certificate.
func (s *Site) url(host string) string {
	if slices.Contains(s.Ports, 443) && (isName(host) || !slices.Contains(s.Ports, 80)) {
		return url("https", host, 443)
	}
	return url("http", host, 80)
}

// Snippet returns what is to be put into the configuration of the site.
func (s *Site) Snippet() string {
	return strings.ReplaceAll(s.snippet, "127.0.0.1:8080", fmt.Sprintf("127.0.0.1:%d", s.Listener))
}
