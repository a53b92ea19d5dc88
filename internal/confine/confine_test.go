//go:build linux

package confine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "confined" {
		confined(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

// confined is what the process under test does: it confines itself, tries what is
// named, and tells what came of it.
func confined(needs string) {
	var n Needs
	if err := json.Unmarshal([]byte(needs), &n); err != nil {
		panic(err)
	}
	out := os.NewFile(3, "results")
	listening := os.NewFile(4, "listener")
	syscall.CloseOnExec(3)
	if err := WriteLine(out, Self(n)); err != nil {
		panic(err)
	}
	results := map[string]string{}
	for name, try := range attempts {
		results[name] = fmt.Sprint(try())
	}
	results["works"] = fmt.Sprint(works(listening))
	if len(n.Connect) > 0 {
		_, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", n.Connect[0]), time.Second)
		results["connect"] = fmt.Sprint(err)
		_, err = net.DialTimeout("tcp", "127.0.0.1:9", time.Second)
		results["connect elsewhere"] = fmt.Sprint(err)
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			panic(err)
		}
		results["connect elsewhere by data"] = fmt.Sprint(unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}))
	}
	if roots := os.Getenv("SSL_CERT_FILE"); roots != "" {
		results["read roots"] = fmt.Sprint(opened(roots, os.O_RDONLY))
	}
	if n.Resolve {
		_, err := net.LookupHost("localhost")
		results["look up"] = fmt.Sprint(err)
		conn, err := net.Dial("udp", "127.0.0.1:9")
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		results["ask a resolver"] = fmt.Sprint(err)
	}
	json.NewEncoder(out).Encode(results)
	io.Copy(io.Discard, os.NewFile(5, "wait")) // is looked at from outside
}

func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func opened(name string, flags int) error {
	f, err := os.OpenFile(name, flags, 0o600)
	f.Close()
	return err
}

func made(family, kind, protocol int) error {
	_, err := unix.Socket(family, kind, protocol)
	return err
}

// attempts must all fail. Some need no privileges, so that only the confinement
// stops them.
var attempts = map[string]func() error{
	"execute":             func() error { return exec.Command("/bin/true").Run() },
	"execve":              func() error { return syscall.Exec("/bin/true", []string{"true"}, nil) },
	"fork":                func() error { return call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)) },
	"clone3":              func() error { return call(unix.SYS_CLONE3, 0, 0) },
	"read passwd":         func() error { return opened("/etc/passwd", os.O_RDONLY) },
	"read shadow":         func() error { return opened("/etc/shadow", os.O_RDONLY) },
	"read own memory":     func() error { return opened("/proc/self/mem", os.O_RDWR) },
	"read its keeper":     func() error { return opened(fmt.Sprintf("/proc/%d/environ", os.Getppid()), os.O_RDONLY) },
	"list /":              func() error { return opened("/", os.O_RDONLY) },
	"create a file":       func() error { return opened("/tmp/confined", os.O_CREATE|os.O_WRONLY) },
	"symlink":             func() error { return os.Symlink("/", "/tmp/confined") },
	"chmod":               func() error { return os.Chmod("/tmp", 0o700) },
	"netlink":             func() error { return made(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER) },
	"packet socket":       func() error { return made(unix.AF_PACKET, unix.SOCK_RAW, 0) },
	"raw socket":          func() error { return made(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
	"unix socket":         func() error { return made(unix.AF_UNIX, unix.SOCK_STREAM, 0) },
	"mptcp socket":        func() error { return made(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP) },
	"udp socket":          func() error { return made(unix.AF_INET, unix.SOCK_DGRAM, 0) },
	"listen":              func() error { return unix.Listen(4, 1) },
	"bind":                func() error { return unix.Bind(4, &unix.SockaddrInet4{}) },
	"end listening":       func() error { return unix.Shutdown(4, unix.SHUT_RDWR) },
	"end half of it":      func() error { return unix.Shutdown(4, unix.SHUT_RD) },
	"bind to a device":    func() error { return unix.BindToDevice(4, "lo") },
	"filter packets":      func() error { return call(unix.SYS_SETSOCKOPT, 4, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, 0, 0) },
	"lock a filter":       func() error { return unix.SetsockoptInt(4, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 0) },
	"ask for hops":        func() error { return unix.SetsockoptInt(4, unix.IPPROTO_IP, unix.IP_MINTTL, 0) },
	"defer what is heard": func() error { return unix.SetsockoptInt(4, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 0) },
	"connect by data": func() error {
		return unix.Sendto(4, []byte("x"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
	},
	"send a descriptor": func() error { return unix.Sendmsg(3, []byte{0}, unix.UnixRights(4), nil, 0) },
	"signal the keeper": func() error { return unix.Kill(os.Getppid(), 0) },
	"signal its thread": func() error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
	"ptrace":            func() error { return unix.PtraceAttach(os.Getppid()) },
	"read its memory": func() error {
		var b [8]byte
		_, err := unix.ProcessVMReadv(os.Getppid(), []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&os.Args)), Len: 8}}, 0)
		return err
	},
	"executable memory": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	},
	"make memory executable": func() error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			panic(err)
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	},
	"unshare":       func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"setns":         func() error { return unix.Setns(0, 0) },
	"mount":         func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
	"chroot":        func() error { return unix.Chroot("/") },
	"bpf":           func() error { return call(unix.SYS_BPF, 0, 0, 0) },
	"io_uring":      func() error { return call(unix.SYS_IO_URING_SETUP, 1, 0) },
	"userfaultfd":   func() error { return call(unix.SYS_USERFAULTFD, 1) },
	"perf":          func() error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0) },
	"keys":          func() error { return call(unix.SYS_KEYCTL, 0, 0) },
	"memfd":         func() error { _, err := unix.MemfdCreate("x", 0); return err },
	"raise a limit": func() error { return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}) },
	"limit its keeper": func() error {
		return unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, nil, new(unix.Rlimit))
	},
	"become another":   func() error { return call(unix.SYS_SETUID, 0) },
	"another filter":   func() error { return call(unix.SYS_SECCOMP, 0, 0, 0) },
	"signals by fcntl": func() error { _, err := unix.FcntlInt(4, unix.F_SETOWN, os.Getppid()); return err },
}

// works does what the front does all day: threads, timers, memory, connections.
func works(listening *os.File) error {
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			runtime.LockOSThread() // a thread each, which ends
			time.Sleep(time.Millisecond)
			runtime.KeepAlive(make([]byte, 1<<20))
		})
	}
	wg.Wait()
	runtime.GC()
	l, err := net.FileListener(listening)
	if err != nil {
		return err
	}
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	b, err := io.ReadAll(conn)
	if err != nil || string(b) != "knock" {
		return fmt.Errorf("%q, %w", b, err)
	}
	return errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.Close(), l.Close())
}

// try starts a confined process, and returns it with its report and results.
func try(t *testing.T, needs Needs, environment ...string) (*Process, Report, map[string]string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	listening, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	wait, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(needs)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(Command{Args: []string{"confined", string(text)}, Environment: environment, Files: []*os.File{out, listening, wait}, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end.Close()
		<-p.Ended()
	})
	out.Close()
	wait.Close()
	go func() {
		if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
			io.WriteString(conn, "knock")
			conn.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, conn)
		}
	}()
	var r Report
	if err := ReadLine(in, &r); err != nil {
		t.Fatal(err)
	}
	var results map[string]string
	if err := json.NewDecoder(in).Decode(&results); err != nil {
		t.Fatal(err)
	}
	return p, r, results
}

func TestAConfinedProcessCanDoItsWorkAndNothingElse(t *testing.T) {
	p, report, results := try(t, Needs{})
	if want := []string{Limits, Landlock, Seccomp}; !slices.Equal(report.Confined, want) || len(report.Warnings) > 0 {
		t.Errorf("it has given up %q, and warns %q", report.Confined, report.Warnings)
	}
	want := []string{Capabilities, NoNewPrivs}
	if os.Geteuid() == 0 {
		want = append([]string{User}, want...)
	}
	if !slices.Equal(p.Confined, want) {
		t.Errorf("it was started without %q, want %q", p.Confined, want)
	}
	if results["works"] != "<nil>" {
		t.Errorf("its work: %s", results["works"])
	}
	delete(results, "works")
	for what, err := range results {
		if err == "<nil>" {
			t.Errorf("it can: %s", what)
		}
	}
	if len(results) != len(attempts) {
		t.Errorf("%d attempts of %d", len(results), len(attempts))
	}
	state, err := Examine(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	if state.Capabilities != 0 || !state.NoNewPrivs || !state.Seccomp || len(state.Groups) > 0 && os.Geteuid() == 0 {
		t.Errorf("the kernel shows %+v", state)
	}
	if os.Geteuid() == 0 && (state.UID == 0 || state.Bounding != 0) {
		t.Errorf("started by root the kernel shows %+v", state)
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	if os.Geteuid() != 0 {
		if !errors.Is(err, os.ErrPermission) {
			t.Errorf("another process of its user sees its descriptors: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", p.PID, f.Name()))
		if !slices.ContainsFunc([]string{"pipe:", "socket:", "anon_inode:", "/dev/null", "/sys/fs/cgroup/"}, func(kind string) bool { return strings.HasPrefix(name, kind) }) && f.Name() != "2" {
			t.Errorf("descriptor %s is %s", f.Name(), name)
		}
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
	if err != nil || len(environment) > 0 {
		t.Errorf("its environment: %q, %v", environment, err)
	}
}

// A process that resolves names asks a resolver, and reads the roots of certificates
// where the environment has them.
func TestAConfinedProcessFindsASite(t *testing.T) {
	roots, err := os.CreateTemp("", "roots")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(roots.Name())
	if err := errors.Join(roots.Chmod(0o644), roots.Close()); err != nil {
		t.Fatal(err)
	}
	_, report, results := try(t, Needs{Connect: []uint16{443}, Resolve: true}, "SSL_CERT_FILE="+roots.Name())
	if len(report.Warnings) > 0 {
		t.Errorf("warnings: %q", report.Warnings)
	}
	for _, what := range []string{"look up", "ask a resolver", "read roots", "works"} {
		if got := results[what]; got != "<nil>" {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// A process that connects to one port connects to no other.
func TestAConfinedProcessConnectsWhereItMust(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, report, results := try(t, Needs{Connect: []uint16{uint16(l.Addr().(*net.TCPAddr).Port)}})
	if len(report.Warnings) > 0 {
		t.Errorf("warnings: %q", report.Warnings)
	}
	if got := results["connect"]; got != "<nil>" {
		t.Errorf("where it must: %s", got)
	}
	if got := results["connect elsewhere"]; !strings.Contains(got, "permission denied") {
		t.Errorf("elsewhere: %s", got)
	}
	if got := results["connect elsewhere by data"]; !strings.Contains(got, "not permitted") {
		t.Errorf("elsewhere, without connect(2): %s", got)
	}
	for _, what := range []string{"udp socket", "mptcp socket", "raw socket", "netlink", "unix socket", "listen", "bind", "execute", "read passwd"} {
		if results[what] == "<nil>" {
			t.Errorf("it can: %s", what)
		}
	}
}

func TestAProcessEndsAndSaysHow(t *testing.T) {
	p, _, _ := try(t, Needs{})
	p.Kill()
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it has ended: %v", err)
	}
}

// Who starts a process gives up nothing itself, on no thread that goes on.
func TestWhoStartsAProcessKeepsItsPower(t *testing.T) {
	before, err := Examine(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var processes []*Process
	for range 10 {
		p, _, _ := try(t, Needs{})
		processes = append(processes, p)
		if now, err := Examine(os.Getpid()); err != nil || now.Capabilities != before.Capabilities || now.Bounding != before.Bounding || now.NoNewPrivs != before.NoNewPrivs {
			t.Fatalf("it has become %+v, %v, from %+v", now, err, before)
		}
	}
	for _, p := range processes {
		p.Kill()
	}
	restricted := func() (n int) {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			text, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
			if !before.NoNewPrivs && strings.Contains(string(text), "NoNewPrivs:\t1") {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(10 * time.Second); restricted() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d threads without power are left", restricted())
		}
	}
}

func TestAReportIsOneLine(t *testing.T) {
	var b bytes.Buffer
	want := Report{Confined: []string{Landlock}, Warnings: []string{"no\nseccomp"}}
	if err := WriteLine(&b, want); err != nil {
		t.Fatal(err)
	}
	b.WriteString("next")
	var got Report
	err := ReadLine(&b, &got)
	if err != nil || !slices.Equal(got.Confined, want.Confined) || !slices.Equal(got.Warnings, want.Warnings) || b.String() != "next" {
		t.Errorf("%+v, %v, then %q", got, err, b.String())
	}
	for _, text := range []string{"", "{}", "nonsense\n", strings.Repeat("x", maxLine+1) + "\n"} {
		if err := ReadLine(strings.NewReader(text), new(Report)); err == nil {
			t.Errorf("%.20q is a report", text)
		}
	}
}
