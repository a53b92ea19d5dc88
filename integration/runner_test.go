package integration

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// shown returns fields of a process as the kernel shows them.
func shown(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		fields[name] = value
	}
	return fields
}

func set(capabilities ...int) string {
	n := uint64(0)
	for _, c := range capabilities {
		n |= 1 << c
	}
	return fmt.Sprintf("%016x", n)
}

// asNobody starts the daemon as an ordinary user with some capabilities.
func (w *world) asNobody(capabilities, text string) {
	w.t.Helper()
	w.configure(text)
	for _, path := range []string{w.dir, w.config()} {
		if err := os.Chown(path, 65534, 65534); err != nil {
			w.t.Fatal(err)
		}
	}
	w.daemon = w.start(w.server.Command(context.Background(), "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all,"+capabilities,
		"--ambient-caps", "-all,"+capabilities, "--bounding-set", "-all,"+capabilities, "--no-new-privs", binary, "serve", "--config", w.config()))
	w.daemon.wait(w.t, `"serving"`)
}

// Of the capabilities, each process has what it is there for. The process that runs
// commands is there while the configuration has some.
func TestEachProcessHasItsCapabilitiesAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		start             func(w *world, text string)
		keeper, permitted string // "": all that root has
		commands          string
		confined          string
		command           string // of one without a user; "": as the keeper, all that root has
	}{
		"root": {
			start:    func(w *world, text string) { w.serve(text) },
			commands: set(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL, unix.CAP_DAC_OVERRIDE), confined: "other_capabilities",
		},
		"ordinary user": {
			start:  func(w *world, text string) { w.asNobody("+net_admin,+setuid,+setgid,+kill", text) },
			keeper: set(unix.CAP_NET_ADMIN), permitted: set(unix.CAP_NET_ADMIN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL),
			commands: set(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL), confined: "other_capabilities", command: set(),
		},
		"ordinary user with one capability": {
			start:  func(w *world, text string) { w.asNobody("+net_admin", text) },
			keeper: set(unix.CAP_NET_ADMIN), permitted: set(unix.CAP_NET_ADMIN), commands: set(), confined: "capabilities", command: set(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			caps := w.script("caps", fmt.Sprintf(`grep ^Cap /proc/self/status > %[1]s/state/caps; mv %[1]s/state/caps %[1]s/state/command`, w.dir))
			plain, some := w.running("1h", ""), w.running("1h", fmt.Sprintf("{on: open, command: [%s]}", caps))
			tt.start(w, plain)
			if pid, _, _, _ := w.process("commands"); pid != 0 {
				t.Error("it runs although there are no commands")
			}
			w.configure(some)
			w.must("reload")
			pid, _, confined, warnings := w.process("commands")
			if !slices.Equal(confined, []string{tt.confined}) || len(warnings) > 0 {
				t.Errorf("it has given up %q, and could not: %q", confined, warnings)
			}
			keeper, _, _, _ := w.process("keeper")
			front, _, _, _ := w.process("front")
			roots := shown(t, os.Getpid())["CapEff"]
			for _, p := range []struct {
				name                 string
				pid                  int
				effective, permitted string
			}{{"keeper", keeper, tt.keeper, tt.permitted}, {"front", front, set(), set()}, {"commands", pid, tt.commands, tt.commands}} {
				s := shown(t, p.pid)
				t.Logf("%s: effective %s, permitted %s, bounding %s", p.name, s["CapEff"], s["CapPrm"], s["CapBnd"])
				if p.effective == "" {
					p.effective, p.permitted = roots, roots
				}
				if s["CapEff"] != p.effective || s["CapPrm"] != p.permitted {
					t.Errorf("%s: effective %s (want %s), permitted %s (want %s)", p.name, s["CapEff"], p.effective, s["CapPrm"], p.permitted)
				}
			}
			// It has the socket to the keeper, and neither the firewall's nor any other.
			sockets := 0
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, fd := range fds {
				if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); strings.HasPrefix(to, "socket:") {
					sockets++
				}
			}
			if sockets != 1 {
				t.Errorf("it has %d sockets", sockets)
			}
			w.knock(w.alice, serverIP, "/open")
			got := map[string]string{}
			for line := range strings.Lines(w.written("state/command", "\n")) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
				got[name] = value
			}
			if want := tt.command; want != "" && (got["CapEff"] != want || got["CapPrm"] != want || got["CapAmb"] != want) {
				t.Errorf("a command has %v", got)
			} else if want == "" && got["CapEff"] != roots {
				t.Errorf("a command of root has %s, root %s", got["CapEff"], roots)
			}
			w.configure(plain)
			w.must("reload")
			if now, _, _, _ := w.process("commands"); now != 0 {
				t.Error("it runs although there are no commands any more")
			}
			until(t, "it has ended", func() bool { return syscall.Kill(pid, 0) != nil })
		})
	}
}

// The process that runs commands is killed again and again. What ran ends with it, what
// waits runs, nothing runs twice, and there is one event for each end.
func TestTheProcessThatRunsCommandsMayEndAtAnyTime(t *testing.T) {
	w := newWorld(t)
	slow := w.script("slow", fmt.Sprintf(`echo "$1" >> %s/begun; read -t 0.1 <> <(:); echo "$1" >> %[1]s/ended`, w.dir))
	goodbye := w.script("goodbye", fmt.Sprintf(`echo "$WEBKNOCK_GRANT" >> %s/closed`, w.dir))
	const many = 120
	var run []string
	for i := range many {
		run = append(run, fmt.Sprintf("{on: complete, command: [%s, %d]}", slow, i))
	}
	run = append(run, fmt.Sprintf("{on: close, command: [%s]}", goodbye))
	w.serve(w.running("1h", strings.Join(run, ", ")))
	w.knock(w.alice, serverIP, "/open")
	w.mustBecome("ssh " + aliceIP)
	id := w.grants()[0].ID
	count := func(name string) int {
		data, _ := os.ReadFile(w.dir + "/" + name)
		return strings.Count(string(data), "\n")
	}
	const kills = 4
	last := 0
	for i := range kills {
		var pid int
		until(t, "it runs commands", func() bool {
			pid, _, _, _ = w.process("commands")
			return pid != 0 && pid != last && count("begun") >= 20*(i+1)
		})
		syscall.Kill(pid, syscall.SIGKILL)
		last = pid
	}
	w.must("close", "--all")
	until(t, "the command for the end", func() bool { return w.closings()[id] > 0 })
	log := func() string { return strings.Join(w.daemon.lines(), "\n") }
	results := func() int {
		return strings.Count(log(), `"command ended"`) + strings.Count(log(), `"command killed"`) + strings.Count(log(), `"command cannot be started"`)
	}
	until(t, "all have come to their end", func() bool { return results() == many+1 })
	begun := map[int]int{}
	data, _ := os.ReadFile(w.dir + "/begun")
	for _, text := range strings.Fields(string(data)) {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if begun[n]++; begun[n] > 1 {
			t.Errorf("command %d ran twice", n)
		}
	}
	if n := w.closings()[id]; n != 1 {
		t.Errorf("the command for the end ran %d times", n)
	}
	killed := strings.Count(log(), `"reason":"the process that runs commands has ended"`)
	lost := strings.Count(log(), "may have been started")
	t.Logf("%d commands: %d begun, %d ended, %d killed with their process, %d perhaps never started", many, len(begun), count("ended"), killed, lost)
	if killed == 0 || killed+lost > 8*kills {
		t.Errorf("%d killed with it, %d perhaps not started, of 8 at once", killed, lost)
	}
	if n := count("ended"); n > many-killed-lost+8*kills/4 { // a few had ended, and their process had not said so
		t.Errorf("%d came to their end, although %d were killed", n, killed)
	}
	if len(begun) < many-lost {
		t.Errorf("only %d of %d ran", len(begun), many)
	}
	out, _, code := w.webknock("events", "--kind", "commands.ended", "-o", "json")
	if n := strings.Count(out, `"commands.ended"`); code != 0 || n != kills {
		t.Errorf("%d events for %d ends (exit %d)\n%s", n, kills, code, out)
	}
	if status := w.must("status"); strings.Contains(status, "degraded") {
		t.Errorf("status\n%s", status)
	}
}

// Also those of other users, with what they have started.
func TestACommandIsKilledWithTheProcessThatRunsIt(t *testing.T) {
	for name, start := range map[string]func(w *world, text string){
		"root":          func(w *world, text string) { w.serve(text) },
		"ordinary user": func(w *world, text string) { w.asNobody("+net_admin,+setuid,+setgid,+kill", text) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			hang := w.script("hang", `trap '' TERM; (trap '' TERM; echo child $BASHPID; while :; do sleep 1; done) & echo parent $$; while :; do sleep 1; done`)
			start(w, w.running("1h", fmt.Sprintf(`{on: complete, command: [%[1]s], user: daemon}, {on: complete, command: [%[1]s]}`, hang)))
			w.knock(w.alice, serverIP, "/open")
			var pids []int
			until(t, "both run", func() bool {
				pids = nil
				for _, line := range w.daemon.lines() {
					_, text, _ := strings.Cut(line, `"line":"`)
					var pid int
					for _, who := range []string{"child", "parent"} {
						if n, _ := fmt.Sscanf(text, who+" %d", &pid); n == 1 {
							pids = append(pids, pid)
						}
					}
				}
				return len(pids) == 4
			})
			pid, _, _, _ := w.process("commands")
			syscall.Kill(pid, syscall.SIGKILL)
			for _, pid := range pids {
				until(t, "a command has ended", func() bool { return syscall.Kill(pid, 0) != nil })
			}
			if log := strings.Join(w.daemon.lines(), "\n"); strings.Contains(log, "cannot be killed") {
				t.Error("one could not be killed")
			}
		})
	}
}

// When the keeper is killed, commands that run have a moment, and the process that runs
// them ends.
func TestTheProcessThatRunsCommandsEndsWithTheKeeper(t *testing.T) {
	w := newWorld(t)
	hang := w.script("hang", fmt.Sprintf(`trap 'echo told > %[1]s/told; exit' TERM; echo $$ > %[1]s/pid; while :; do read -t 0.05 <> <(:); done`, w.dir))
	w.serve(w.running("1h", fmt.Sprintf(`{on: complete, command: [%s]}`, hang)))
	w.knock(w.alice, serverIP, "/open")
	w.written("pid", "\n")
	pid, _, _, _ := w.process("commands")
	w.daemon.stop(t, syscall.SIGKILL)
	w.written("told", "told\n")
	until(t, "it has ended", func() bool { return syscall.Kill(pid, 0) != nil })
}

// Commands use the network as they could before.
func TestACommandUsesTheNetwork(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	call := w.script("call", `exec 3<>/dev/tcp/127.0.0.1/22; echo hello >&3; read -r answer <&3; echo "answer: $answer"`)
	w.serve(w.running("1h", fmt.Sprintf(`{on: open, command: [%s], user: nobody}`, call)))
	w.knock(w.alice, serverIP, "/open")
	w.daemon.wait(t, "answer: hello")
}

// Nobody starts it by hand, and it is not a way to run commands with the daemon's rights.
func TestTheProcessThatRunsCommandsIsNotForHands(t *testing.T) {
	w := newWorld(t)
	w.configure(standard)
	if _, stderr, code := w.webknock("run"); code == 0 || !strings.Contains(stderr, "is a part of webknock serve") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
