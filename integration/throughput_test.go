package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"webknock/integration/load"
)

const dropping = `
listeners:
  - address: "ADDRESS"
clients: {max: 131072}
shield: {rate: off}
doors:
  - {name: ssh, ports: [22/tcp], ttl: 1h, max_grants: 65536}
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh], within: 1m}
`

const apacheModSecurity = `
ServerRoot /usr/lib/apache2
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule unique_id_module modules/mod_unique_id.so
LoadModule security2_module modules/mod_security2.so
ServerName home.example.org
Listen ADDRESS
PidFile DIR/apache.pid
DefaultRuntimeDir DIR
User www-data
Group www-data
ErrorLog DIR/error.log
LogLevel crit
StartServers 2
ThreadsPerChild 64
MinSpareThreads 64
MaxSpareThreads 128
MaxRequestWorkers 128
SecRuleEngine On
SecAuditEngine Off
SecRule REQUEST_FILENAME "@rx ^/trigger\.php" "id:1,phase:1,drop,nolog"
`

// A contest is one kind of request, made to one server in each round.
type contest struct {
	server  *server
	paths   []string
	clients int
	ending  string          // of its connections
	rates   []float64       // knocks in a second
	costs   []time.Duration // CPU time of one knock
}

// BenchmarkThroughput makes the same requests to webknock, nginx and Apache with
// mod_security in turn, each of which drops the connection. The client takes
// its part of the same processors, so what a knock costs the server says more
// than how many come in a second.
func BenchmarkThroughput(b *testing.B) {
	const rounds, knocks, connections = 5, 20_000, 64
	f := newField(b)
	webknock := f.webknock(f.serverHost("webknock", "10.20.0.11"), "10.20.0.11:8080", dropping)
	closing := f.nginx("nginx", f.serverHost("nginx", "10.20.0.12"), "10.20.0.12:8080", "server { listen ADDRESS; return 444; }")
	resetting := f.nginx("nginx-rst", f.serverHost("nginx-rst", "10.20.0.13"), "10.20.0.13:8080", "server { listen ADDRESS; return 444; reset_timedout_connection on; }")
	apache := f.serve("apache", f.serverHost("apache", "10.20.0.14"), "10.20.0.14:8080", map[string]string{"apache.conf": apacheModSecurity}, "apache2", "-DFOREGROUND", "-f", "DIR/apache.conf")

	miss, sequence := []string{"/trigger.php"}, []string{"/a", "/b", "/c"}
	var contests []*contest
	for _, clients := range []int{1, manyClients} {
		contests = append(contests,
			&contest{server: webknock, paths: miss, clients: clients, ending: "RST"},
			&contest{server: closing, paths: miss, clients: clients, ending: "FIN"},
			&contest{server: resetting, paths: miss, clients: clients, ending: "RST"},
			&contest{server: apache, paths: miss, clients: clients, ending: "FIN"})
	}
	contests = append(contests, &contest{server: webknock, paths: sequence, clients: manyClients, ending: "RST"})

	opened := 0
	for round := range rounds {
		for _, c := range contests {
			k := load.Knocks{To: c.server.address, Sequences: knocks / len(c.paths), Paths: c.paths, Connections: connections}
			if c.clients > 1 { // others in each round
				k.From, k.Skip, k.Clients = netip.MustParseAddr(firstClient), round*k.Sequences, c.clients
			}
			before := f.cpu(c.server)
			result, err := k.On(b.Context(), f.clients)
			if err != nil {
				b.Fatal(err)
			}
			done := k.Sequences * len(c.paths)
			c.costs = append(c.costs, (f.cpu(c.server)-before)/time.Duration(done))
			c.rates = append(c.rates, float64(done)/result.Elapsed.Seconds())
			if ended := map[string]int{"RST": result.Reset, "FIN": result.Closed}[c.ending]; ended != done || result.Bytes != 0 {
				b.Errorf("%s: %+v of %d knocks; want a %s for each, and not a byte", c.server.name, result, done, c.ending)
			}
			if len(c.paths) == len(sequence) {
				opened += k.Sequences
				f.await(fmt.Sprint(opened, " grants"), func() bool { return f.grants(c.server) == opened })
			}
		}
	}
	if there := f.elements(webknock, "ssh4"); there != opened {
		b.Errorf("the kernel has %d grants, want %d", there, opened)
	}
	rows := [][]string{{"request", "server", "ends with", "clients", "knocks/s", "server's CPU per knock"}}
	for _, c := range contests {
		rate, cost := median(c.rates), median(c.costs)
		what := "miss"
		if len(c.paths) > 1 {
			what = "step" // of sequences that are completed
		}
		rows = append(rows, []string{what, c.server.name, c.ending, fmt.Sprint(c.clients), fmt.Sprintf("%.0f", rate), cost.Round(time.Microsecond / 10).String()})
		name := fmt.Sprintf("-%s-%d-%s", what, c.clients, c.server.name)
		b.ReportMetric(rate, "knocks/s"+name)
		b.ReportMetric(float64(cost)/1e3, "cpu-µs/knock"+name)
	}
	b.ReportMetric(0, "ns/op")
	report(fmt.Sprintf("%d rounds of %d knocks, %d connections at once, medians; %d grants opened", rounds, knocks, connections, opened), rows)
}

// grants returns how many grants webknock counts.
func (f *field) grants(s *server) int {
	f.Helper()
	out, err := exec.Command(binary, "status", "--output", "json", "--socket", s.dir+"/webknock.sock").Output()
	if err != nil {
		f.Fatal(err)
	}
	var status struct{ Grants int }
	if err := json.Unmarshal(out, &status); err != nil {
		f.Fatal(err)
	}
	return status.Grants
}

// elements returns how many elements that run out a set of webknock's table has.
func (f *field) elements(s *server, set string) int {
	f.Helper()
	out, err := s.host.Command(f.Context(), "nft", "list", "set", "inet", "webknock", set).Output()
	if err != nil {
		f.Fatal(err)
	}
	return strings.Count(string(out), " expires ")
}
