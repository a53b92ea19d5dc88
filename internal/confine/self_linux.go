package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Needs are what a process cannot be without.
type Needs struct {
	Connect []uint16 // TCP ports that it connects to; none: it makes no sockets
	Resolve bool     // it looks up the addresses of host names
}

// Self confines the process that calls it, with all its threads. There is no way
// back.
func Self(n Needs) (r Report) {
	// The kernel forgets that of a program whose file has capabilities.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		r.warn("it may outlive its keeper: %v", err)
	}
	// Read what is read only once, while it can be.
	time.Now().Zone() //lint:ignore SA4017 it reads the time zone
	limits(&r)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil { // nobody of the same user reads its memory
		r.warn("prctl: %v", err)
	}
	restrictFiles(&r, n)
	restrictCalls(&r, n)
	return r
}

// limits sets the resource limits that cost nothing. One on processes would count
// threads too, and those of other processes of the user: seccomp forbids fork
// instead.
func limits(r *Report) {
	for _, l := range []struct {
		what int
		name string
	}{
		{unix.RLIMIT_CORE, "RLIMIT_CORE"}, {unix.RLIMIT_FSIZE, "RLIMIT_FSIZE"},
		{unix.RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"}, {unix.RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"},
	} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{}); err != nil {
			r.warn("%s: %v", l.name, err)
			return
		}
	}
	r.took(Limits)
}

// Files that name resolution reads, and roots of certificates, for a site behind
// https. Those that are missing do not matter.
var (
	resolverFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"}
	rootFiles     = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"}
	rootDirs      = []string{"/etc/ssl/certs", "/etc/pki/tls/certs", "/usr/share/ca-certificates"}
)

// dnsPort is for answers that do not fit into a datagram.
const dnsPort = 53

// restrictFiles leaves the process no files, no TCP ports, and no signals and
// abstract sockets to processes outside, save for its needs.
func restrictFiles(r *Report, n Needs) {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		r.warn("no Landlock: this kernel has none, or a filter forbids it (%v)", err)
		return
	}
	var rules []landlock.Rule
	read := func(rights landlock.AccessFSSet, paths ...string) {
		for _, path := range paths {
			if _, err := os.Stat(path); err == nil {
				rules = append(rules, landlock.PathAccess(rights, path).IgnoreIfMissing())
			}
		}
	}
	if len(n.Connect) > 0 {
		read(ll.AccessFSReadFile, append(rootFiles[:len(rootFiles):len(rootFiles)], os.Getenv("SSL_CERT_FILE"))...)
		read(ll.AccessFSReadFile|ll.AccessFSReadDir, slices.Concat(rootDirs, filepath.SplitList(os.Getenv("SSL_CERT_DIR")))...)
	}
	if n.Resolve {
		read(ll.AccessFSReadFile, resolverFiles...)
	}
	if abi >= 4 {
		for _, port := range n.Connect {
			rules = append(rules, landlock.ConnectTCP(port))
		}
		if n.Resolve {
			rules = append(rules, landlock.ConnectTCP(dnsPort))
		}
	}
	// UDP is left to seccomp: what may be sent to a resolver cannot be told from the
	// rest by its port alone where the resolver answers.
	if err := landlock.V9.BestEffort().Restrict(rules...); err != nil {
		r.warn("no Landlock: %v", err)
		return
	}
	if f, err := os.Open("/"); err == nil { // best effort is silent where it does nothing
		f.Close()
		r.warn("no Landlock: it was set up, and holds nothing back")
		return
	}
	r.took(Landlock)
	if abi < 4 {
		r.warn("Landlock of this kernel keeps nobody from TCP ports (Linux 6.7 does)")
	}
	if abi < 6 {
		r.warn("Landlock of this kernel keeps nobody from signals (Linux 6.12 does)")
	}
}

// calls are the system calls that Go's runtime and the front make, on any
// processor: names that one lacks are left out.
var calls = []string{
	// runtime
	"futex", "futex_time64", "nanosleep", "clock_nanosleep", "clock_nanosleep_time64", "clock_gettime", "clock_gettime64", "gettimeofday", "sched_yield",
	"sched_getaffinity", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigreturn", "sigaltstack", "munmap", "madvise", "mincore", "brk",
	"getpid", "gettid", "getrlimit", "ugetrlimit", "uname", "exit", "exit_group", "getrandom", "restart_syscall", "set_robust_list", "rseq", "membarrier", "getuid", "geteuid", "getgid", "getegid",
	// descriptors
	"read", "readv", "pread64", "write", "writev", "close", "dup", "dup2", "dup3", "pipe2", "splice", "lseek", "_llseek", "fstat", "fstat64", "poll", "ppoll", "ppoll_time64",
	"epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2",
	// connections
	// Send, sendto and sendmsg are missing: with MSG_FASTOPEN they connect, which neither
	// Landlock nor a filter of connect sees, and they carry descriptors.
	"accept4", "getsockname", "getpeername", "getsockopt", "recv", "recvfrom", "recvmsg",
	"sendfile", "sendfile64",
}

// siteCalls are for the sites that the process connects to: their roots of certificates
// and their addresses are in files, as far as Landlock lets it read them.
var siteCalls = []string{"connect", "openat", "newfstatat", "fstatat64", "statx", "readlinkat", "getdents64", "getcwd"}

// options are what the front sets of sockets, by level. Listening sockets are the
// keeper's as well: most other options would outlast the front, and keep everybody out.
var options = map[uint64][]uint64{
	unix.SOL_SOCKET:  {unix.SO_LINGER, unix.SO_KEEPALIVE},
	unix.IPPROTO_TCP: {unix.TCP_NODELAY, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT},
}

// madeOptions are what Go sets of a socket that it makes.
var madeOptions = map[uint64][]uint64{
	unix.SOL_SOCKET:   {unix.SO_BROADCAST},
	unix.IPPROTO_IPV6: {unix.IPV6_V6ONLY},
}

// restrictCalls leaves the process the system calls above. It can execute nothing,
// fork nothing, make no code, bind no port.
func restrictCalls(r *Report, n Needs) {
	info, err := arch.GetInfo("")
	if err != nil || len(info.SyscallNames) == 0 || runtime.GOARCH == "386" { // there, one call makes all kinds of sockets
		r.warn("no seccomp: its library does not know this processor (%s)", runtime.GOARCH)
		return
	}
	if !seccomp.Supported() {
		r.warn("no seccomp: this kernel has none, or a filter forbids it")
		return
	}
	known := func(names []string) (all []string) {
		for _, name := range names {
			if _, ok := info.SyscallNames[name]; ok {
				all = append(all, name)
			}
		}
		return all
	}
	plain := calls
	if len(n.Connect) > 0 {
		plain = slices.Concat(calls, siteCalls)
	}
	var some []seccomp.NameWithConditions
	when := func(name string, conditions ...seccomp.Condition) {
		if len(known([]string{name})) > 0 {
			some = append(some, seccomp.NameWithConditions{Name: name, Conditions: conditions})
		}
	}
	is := func(argument uint32, value uint64) seccomp.Condition {
		return seccomp.Condition{Argument: argument, Operation: seccomp.Equal, Value: value}
	}
	without := func(argument uint32, bits uint64) seccomp.Condition {
		return seccomp.Condition{Argument: argument, Operation: seccomp.BitsNotSet, Value: bits}
	}
	for _, name := range []string{"mmap", "mmap2", "mprotect"} {
		when(name, without(2, unix.PROT_EXEC))
	}
	when("clone", seccomp.Condition{Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD})
	when("tgkill", is(0, uint64(os.Getpid())))
	for _, pid := range []int{0, os.Getpid()} {
		when("prlimit64", is(0, uint64(pid)), is(2, 0))
	}
	for _, command := range []uint64{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC} {
		when("fcntl", is(1, command))
		when("fcntl64", is(1, command))
	}
	when("shutdown", is(1, unix.SHUT_WR)) // others end listening
	sets := []map[uint64][]uint64{options}
	if len(n.Connect) > 0 {
		sets = append(sets, madeOptions)
	}
	for _, set := range sets {
		for level, names := range set {
			for _, name := range names {
				when("setsockopt", is(1, level), is(2, name))
			}
		}
	}
	if len(n.Connect) > 0 {
		kinds := []uint64{unix.SOCK_STREAM}
		if n.Resolve {
			kinds = append(kinds, unix.SOCK_DGRAM)
		}
		for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
			for _, kind := range kinds {
				when("socket", is(0, family), is(1, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK), is(2, 0))
			}
		}
	}
	groups := []seccomp.SyscallGroup{{Action: seccomp.ActionAllow, Names: known(plain), NamesWithCondtions: some}}
	if c3 := known([]string{"clone3"}); len(c3) > 0 { // C libraries then use clone
		groups = append(groups, seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: c3})
	}
	filter := seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: groups},
	}
	if err := seccomp.LoadFilter(filter); err != nil {
		r.warn("no seccomp: %v", err)
		return
	}
	if err := netlinkRefused(); err != nil {
		r.warn("no seccomp: it was set up, and %v", err)
		return
	}
	r.took(Seccomp)
}

// netlinkRefused tries what the filter must refuse.
func netlinkRefused() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err == nil {
		unix.Close(fd)
		return errors.New("netlink can be spoken")
	}
	if !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("netlink fails for another reason: %w", err)
	}
	return nil
}
