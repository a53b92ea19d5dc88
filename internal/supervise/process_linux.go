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

// A Starter starts fronts: this program again, by the hidden command of that name.
//
// Most of the time until a front is ready is that of its program's start, for which
// nothing has to be known yet. So the first one begins as soon as there is a Starter,
// beside the start of the keeper.
type Starter struct{ first chan begun }

// NewStarter returns a Starter whose first process has begun.
func NewStarter() *Starter {
	s := &Starter{make(chan begun, 1)}
	go func() {
		s.first <- begin()
		close(s.first)
	}()
	return s
}

// begun is a process that waits for its orders.
type begun struct {
	process *confine.Process
	socket  *net.UnixConn
	records *os.File // what it logs
	err     error
}

// Orders are what a front is told first.
type Orders struct {
	confine.Needs
	Debug bool // it logs what is for debugging too
}

func begin() (b begun) {
	ours, theirs, err := socketpair()
	if err != nil {
		return begun{err: err}
	}
	defer theirs.Close() // or else its end would not be seen
	records, stderr, err := os.Pipe()
	if err != nil {
		ours.Close()
		return begun{err: err}
	}
	defer stderr.Close()
	process, err := confine.Start(confine.Command{Args: []string{"front"}, Environment: environment(), Files: []*os.File{theirs}, Stderr: stderr})
	if err != nil {
		ours.Close()
		records.Close()
	}
	return begun{process, ours, records, err}
}

// Start starts a front for a configuration.
func (s *Starter) Start(c seam.Configuration, k seam.Keeper, log *slog.Logger) (Process, error) {
	if b, first := <-s.first; first {
		if p, err := b.start(c, k, log); err == nil {
			return p, nil
		}
	}
	return begin().start(c, k, log)
}

func (b begun) start(c seam.Configuration, k seam.Keeper, log *slog.Logger) (Process, error) {
	if b.err != nil {
		return nil, b.err
	}
	p := &child{process: b.process, relayed: make(chan struct{})}
	go func() {
		defer close(p.relayed)
		defer b.records.Close()
		Relay(b.records, "front", log)
	}()
	report, err := order(b.socket, Orders{NeedsOf(c), log.Enabled(context.Background(), slog.LevelDebug)})
	if err != nil {
		b.socket.Close()
		b.process.Kill()
		return nil, fmt.Errorf("it says nothing (%w): %w", err, b.process.Err())
	}
	p.info = confine.Info{
		Name: "front", PID: b.process.PID, User: b.process.User,
		Confined: slices.Concat(b.process.Confined, report.Confined), Warnings: slices.Concat(b.process.Warnings, report.Warnings),
	}
	p.info.Warnings = append(p.info.Warnings, contradictions(p.info)...)
	p.FrontClient = wire.NewFrontClient(b.socket, k)
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

// order gives a process its orders, if any, and returns what it has given up then.
func order(socket net.Conn, orders any) (report confine.Report, err error) {
	err = socket.SetDeadline(time.Now().Add(startTimeout))
	if err == nil && orders != nil {
		err = confine.WriteLine(socket, orders)
	}
	if err == nil {
		err = confine.ReadLine(socket, &report)
	}
	if err == nil {
		err = socket.SetDeadline(time.Time{})
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

// whyEnded returns why nothing more can be asked of a process, or that it is to end.
func whyEnded(client interface {
	Done() <-chan struct{}
	Err() error
}, p *confine.Process) error {
	select {
	case <-client.Done():
	default:
		return errors.New("it was ended")
	}
	select { // it may have ended by itself, and that says more
	case <-p.Ended():
		return p.Err()
	case <-time.After(endTimeout / 10):
		return client.Err()
	}
}

// Close implements Process.
func (c *child) Close() {
	c.closing.Do(func() {
		c.why = whyEnded(c.FrontClient, c.process)
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
