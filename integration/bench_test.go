package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"webknock/integration/lab"
	"webknock/integration/load"
)

func init() { load.Enter() }

// One host has the addresses of many clients.
const (
	clientsIP    = "10.20.0.2"
	firstClient  = "10.64.0.0"
	manyClients  = 65536
	clientsRange = firstClient + "/16"
)

// A field is a range of servers, each on a host of its own, and the host that knocks.
type field struct {
	testing.TB
	net     *lab.Net
	clients *lab.Host
}

func newField(tb testing.TB) *field {
	tb.Helper()
	n, err := lab.New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	f := &field{TB: tb, net: n}
	f.clients = f.host("clients", clientsIP)
	f.run(f.clients, "ip", "route", "add", "local", clientsRange, "dev", "lo")
	f.run(f.clients, "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")
	return f
}

func (f *field) host(name, address string) *lab.Host {
	f.Helper()
	h, err := f.net.Host(name, address+"/24")
	if err != nil {
		f.Fatal(err)
	}
	return h
}

func (f *field) run(h *lab.Host, name string, args ...string) {
	f.Helper()
	if err := h.Run(name, args...); err != nil {
		f.Fatal(err)
	}
}

// A server is one program that listens on a host, and its configuration.
type server struct {
	name    string
	host    *lab.Host
	address netip.AddrPort
	dir     string
	pid     int
}

// serverHost makes a host that knows the way to the clients.
func (f *field) serverHost(name, ip string) *lab.Host {
	f.Helper()
	h := f.host(name, ip)
	f.run(h, "ip", "route", "add", clientsRange, "via", clientsIP)
	return h
}

// serve starts a server on a host and waits until it accepts connections there.
// In its files and in the arguments of its command DIR becomes the directory of
// its files, and ADDRESS its address.
func (f *field) serve(name string, host *lab.Host, address string, files map[string]string, command ...string) *server {
	f.Helper()
	s := &server{name: name, host: host, address: netip.MustParseAddrPort(address), dir: f.TempDir()}
	fill := strings.NewReplacer("DIR", s.dir, "ADDRESS", address)
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(s.dir, file), []byte(fill.Replace(text)), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	for i := range command {
		command[i] = fill.Replace(command[i])
	}
	cmd := s.host.Command(context.Background(), command[0], command[1:]...)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID // its processes end with its first one, however this ends
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		f.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	s.pid = cmd.Process.Pid // nsenter becomes the command
	f.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if f.Failed() {
			text, _ := os.ReadFile(log.Name())
			f.Logf("log of %s:\n%s", name, text)
		}
		log.Close()
	})
	f.await(name+" listens", func() bool {
		return host.Do(func() error {
			conn, err := net.DialTimeout("tcp", s.address.String(), time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		}) == nil
	})
	return s
}

// webknock starts the program under test. The configuration is that of a server
// in serve.
func (f *field) webknock(host *lab.Host, address, config string) *server {
	f.Helper()
	config += "\nadmin: {socket: DIR/webknock.sock}\nstate: DIR\n"
	return f.serve("webknock", host, address, map[string]string{"webknock.yaml": config}, binary, "serve", "--config", "DIR/webknock.yaml")
}

// nginx starts nginx with a block of its configuration.
func (f *field) nginx(name string, host *lab.Host, address, http string) *server {
	f.Helper()
	config := `
daemon off;
pid DIR/nginx.pid;
error_log DIR/error.log crit;
worker_processes auto;
events { worker_connections 16384; }
http {
	access_log off;
` + http + `
}
`
	return f.serve(name, host, address, map[string]string{"nginx.conf": config}, "nginx", "-c", "DIR/nginx.conf")
}

// await polls a condition.
func (f *field) await(what string, condition func() bool) {
	f.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			f.Fatalf("waited in vain: %s", what)
		}
	}
}

// cpu returns the CPU time, user's and kernel's, of the server's processes so
// far. It is counted in hundredths of a second (proc_pid_stat(5)).
func (f *field) cpu(s *server) time.Duration {
	f.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		f.Fatal(err)
	}
	parent, ticks := map[int]int{}, map[int]int{}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil { // has ended
			continue
		}
		// The name, in parentheses, may hold anything.
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		number := func(i int) int { n, _ := strconv.Atoi(fields[i-3]); return n } // numbered as in the manual
		const ppid, utime, stime = 4, 14, 15
		parent[pid], ticks[pid] = number(ppid), number(utime)+number(stime)
	}
	var sum int
	for pid, t := range ticks {
		for p := pid; p > 0; p = parent[p] {
			if p == s.pid {
				sum += t
				break
			}
		}
	}
	return time.Duration(sum) * time.Second / 100
}

// status returns a figure of /proc/PID/status of the server's first process, in
// the unit that it has there.
func (f *field) status(s *server, key string) int {
	f.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		f.Fatal(err)
	}
	_, value, _ := strings.Cut(string(text), "\n"+key+":")
	n, err := strconv.Atoi(append(strings.Fields(value), "")[0])
	if err != nil {
		f.Fatalf("%s: %v", key, err)
	}
	return n
}

func (f *field) descriptors(s *server) int {
	f.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid))
	if err != nil {
		f.Fatal(err)
	}
	return len(list)
}

func median[T int | float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// report prints rows of cells, the first of which are the headings. A
// benchmark's log is cut off after ten lines, so this is not in it.
func report(title string, rows [][]string) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s\n\n", title)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	fmt.Fprintln(w)
	w.Flush()
}
