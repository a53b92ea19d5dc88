package integration

import (
	"crypto/tls"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"webknock/integration/load"
)

// BenchmarkHandshakes makes full TLS 1.3 handshakes, each with one knock, with
// webknock and nginx in turn. Most of the time is the client's, so that what a
// handshake costs the server says more than how many are made in a second.
func BenchmarkHandshakes(b *testing.B) {
	const rounds, handshakes, connections = 5, 2_000, 16
	f := newField(b)
	dir := b.TempDir()
	for name, algorithm := range map[string][]string{"ecdsa": {"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, "rsa": {"-newkey", "rsa:2048"}} {
		args := append([]string{"req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=home.example.org", "-addext", "subjectAltName=DNS:home.example.org",
			"-keyout", dir + "/" + name + ".key", "-out", dir + "/" + name + ".pem"}, algorithm...)
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			b.Fatalf("openssl: %v\n%s", err, out)
		}
	}
	servers := map[string]*server{}
	for i, certificate := range []string{"ecdsa", "rsa"} {
		at := fmt.Sprint("10.20.0.", 11+i)
		servers["webknock-"+certificate] = f.webknock(f.serverHost("webknock-"+certificate, at), at+":8443", fmt.Sprintf(`
listeners:
  - address: "ADDRESS"
    tls: {certificate: %[1]s/%[2]s.pem, key: %[1]s/%[2]s.key}
shield: {rate: off}
doors:
  - {name: ssh, ports: [22/tcp]}
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
`, dir, certificate))
		at = fmt.Sprint("10.20.0.", 21+i)
		servers["nginx-"+certificate] = f.nginx("nginx", f.serverHost("nginx-"+certificate, at), at+":8443", fmt.Sprintf(`
	ssl_certificate %[1]s/%[2]s.pem;
	ssl_certificate_key %[1]s/%[2]s.key;
	ssl_protocols TLSv1.3;
	ssl_session_tickets off;
	ssl_session_cache off;
	reset_timedout_connection on;
	server { listen ADDRESS ssl; return 444; }`, dir, certificate))
	}
	type contest struct {
		server, certificate string
		curve               tls.CurveID
		rates               []float64
		costs               []time.Duration
	}
	contests := []*contest{
		{server: "webknock", certificate: "ecdsa", curve: tls.X25519},
		{server: "nginx", certificate: "ecdsa", curve: tls.X25519},
		{server: "webknock", certificate: "ecdsa", curve: tls.X25519MLKEM768}, // which nginx has with OpenSSL 3.5 only
		{server: "webknock", certificate: "rsa", curve: tls.X25519},
		{server: "nginx", certificate: "rsa", curve: tls.X25519},
	}
	for range rounds {
		for _, c := range contests {
			s := servers[c.server+"-"+c.certificate]
			before := f.cpu(s)
			result, err := load.Handshakes{To: s.address, Number: handshakes, Connections: connections, Path: "/nothing", Curve: c.curve}.On(b.Context(), f.clients)
			if err != nil {
				b.Fatal(err)
			}
			if result.Reset+result.Closed != handshakes || result.Bytes != 0 {
				b.Errorf("%s: %+v of %d handshakes", c.server, result, handshakes)
			}
			c.rates = append(c.rates, handshakes/result.Elapsed.Seconds())
			c.costs = append(c.costs, (f.cpu(s)-before)/handshakes)
		}
	}
	rows := [][]string{{"certificate", "key exchange", "server", "handshakes/s", "server's CPU per handshake"}}
	for _, c := range contests {
		rate, cost := median(c.rates), median(c.costs)
		rows = append(rows, []string{c.certificate, c.curve.String(), c.server, fmt.Sprintf("%.0f", rate), cost.Round(time.Microsecond).String()})
		name := fmt.Sprintf("-%s-%v-%s", c.certificate, c.curve, c.server)
		b.ReportMetric(rate, "handshakes/s"+name)
		b.ReportMetric(float64(cost)/1e3, "cpu-µs/handshake"+name)
	}
	b.ReportMetric(0, "ns/op")
	report(fmt.Sprintf("%d rounds of %d full handshakes with one knock each, %d at once, medians", rounds, handshakes, connections), rows)
}
