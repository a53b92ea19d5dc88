package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"webknock/internal/confine"
	"webknock/internal/seam"
	"webknock/internal/seam/wire"
)

// startTimeout bounds how long a process may take until it has confined itself.
const startTimeout = 10 * time.Second

// endTimeout is for the last lines that a process has logged.
const endTimeout = time.Second

// A child is a front in a confined process.
type child struct {
	*wire.FrontClient
	process *confine.Process
	relayed chan struct{} // closed when all that it logged is in the log
	info    confine.Info

	closing sync.Once
	why     error
}

// Start starts this program again as the front: the hidden command of that name.
func Start(c seam.Configuration, k seam.Keeper, log *slog.Logger) (Process, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	records, stderr, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer stderr.Close()
	args := append([]string{"front"}, Arguments(NeedsOf(c))...)
	if log.Enabled(context.Background(), slog.LevelDebug) {
		args = append(args, "--debug")
	}
	process, err := confine.Start(confine.Command{
		Args: args, Environment: environment(), Files: []*os.File{theirs}, Stderr: stderr,
	})
	if err != nil {
		ours.Close()
		records.Close()
		return nil, err
	}
	p := &child{process: process, relayed: make(chan struct{})}
	go func() {
		defer close(p.relayed)
		defer records.Close()
		Relay(records, "front", log)
	}()
	theirs.Close() // or else its end would not be seen
	stderr.Close()
	report, err := firstReport(ours)
	if err != nil {
		ours.Close()
		process.Kill()
		return nil, fmt.Errorf("it says nothing (%w): %w", err, process.Err())
	}
	p.info = confine.Info{
		Name: "front", PID: process.PID, User: process.User,
		Confined: slices.Concat(process.Confined, report.Confined), Warnings: slices.Concat(process.Warnings, report.Warnings),
	}
	p.info.Warnings = append(p.info.Warnings, contradictions(p.info)...)
	p.FrontClient = wire.NewFrontClient(ours, k)
	return p, nil
}

// socketpair returns the two ends of the seam.
func socketpair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	end := os.NewFile(uintptr(fds[0]), "seam")
	defer end.Close()
	theirs = os.NewFile(uintptr(fds[1]), "seam")
	conn, err := net.FileConn(end)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// firstReport reads what a process has given up.
func firstReport(from net.Conn) (confine.Report, error) {
	if err := from.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return confine.Report{}, err
	}
	report, err := confine.ReadReport(from)
	if err == nil {
		err = from.SetReadDeadline(time.Time{})
	}
	return report, err
}

// contradictions returns what a process says that it has given up, and the kernel
// shows otherwise.
func contradictions(i confine.Info) (all []string) {
	state, err := confine.Examine(i.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // /proc shows only what one may trace (hidepid, systemd's ProtectProc)
	}
	if err != nil {
		return []string{"what the kernel says of its confinement cannot be read: " + err.Error()}
	}
	for _, check := range []struct {
		what string
		took bool
	}{
		{confine.User, state.UID != 0},
		{confine.Capabilities, state.Capabilities == 0},
		{confine.NoNewPrivs, state.NoNewPrivs},
		{confine.Seccomp, state.Seccomp},
	} {
		if slices.Contains(i.Confined, check.what) && !check.took {
			all = append(all, "by what the kernel says it has not given up: "+check.what)
		}
	}
	return all
}

// Ended implements Process.
func (c *child) Ended() <-chan struct{} { return c.FrontClient.Done() }

// Err implements Process.
func (c *child) Err() error {
	c.Close()
	return c.why
}

// Info implements Process.
func (c *child) Info() confine.Info { return c.info }

// Close implements Process.
func (c *child) Close() {
	c.closing.Do(func() {
		select {
		case <-c.FrontClient.Done():
			select { // it may have ended by itself, and that says more
			case <-c.process.Ended():
				c.why = c.process.Err()
			case <-time.After(endTimeout / 10):
				c.why = c.FrontClient.Err()
			}
		default:
			c.why = errors.New("it was ended")
		}
		c.FrontClient.Close()
		c.process.Kill()
		select {
		case <-c.relayed:
		case <-time.After(endTimeout):
		}
	})
}

// environment is what the runtime of a process needs to know, and nothing else.
func environment() []string {
	all := []string{"GOMAXPROCS=" + strconv.Itoa(runtime.GOMAXPROCS(0))}
	for _, name := range []string{"GODEBUG", "GOGC", "GOMEMLIMIT", "GOTRACEBACK", "GORACE", "SSL_CERT_DIR", "SSL_CERT_FILE", "TZ"} {
		if value, ok := os.LookupEnv(name); ok {
			all = append(all, name+"="+value)
		}
	}
	return all
}

// NeedsOf returns what a front cannot be without: the sites behind covers.
func NeedsOf(c seam.Configuration) (n confine.Needs) {
	for _, l := range c.Listeners {
		if l.Cover.Proxy == "" {
			continue
		}
		site, err := url.Parse(l.Cover.Proxy)
		if err != nil {
			continue // the front says so
		}
		port, err := strconv.ParseUint(site.Port(), 10, 16)
		if err != nil {
			port = map[string]uint64{"http": 80, "https": 443}[site.Scheme]
		}
		if !slices.Contains(n.Connect, uint16(port)) {
			n.Connect = append(n.Connect, uint16(port))
		}
		if _, err := netip.ParseAddr(site.Hostname()); err != nil {
			n.Resolve = true
		}
	}
	slices.Sort(n.Connect)
	return n
}

// Arguments returns needs as arguments of a command, for ParseNeeds.
func Arguments(n confine.Needs) (args []string) {
	for _, port := range n.Connect {
		args = append(args, strconv.Itoa(int(port)))
	}
	if n.Resolve {
		args = append(args, "resolve")
	}
	return args
}

// ParseNeeds reads what Arguments has written.
func ParseNeeds(args []string) (n confine.Needs, err error) {
	for _, arg := range args {
		if arg == "resolve" {
			n.Resolve = true
			continue
		}
		port, err := strconv.ParseUint(arg, 10, 16)
		if err != nil || port == 0 || strings.HasPrefix(arg, "+") {
			return n, fmt.Errorf("%q is no port", arg)
		}
		n.Connect = append(n.Connect, uint16(port))
	}
	return n, nil
}
