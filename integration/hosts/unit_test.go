//go:build hosts

package hosts

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// exposure is the figure of systemd-analyze security, from 0.0 to 10.0.
func (m *machine) exposure() float64 {
	m.t.Helper()
	out := m.run("systemd-analyze", "security", "--no-pager", "webknock.service")
	found := regexp.MustCompile(`Overall exposure level for webknock.service: ([0-9.]+)`).FindStringSubmatch(out)
	if found == nil {
		m.t.Fatalf("no exposure level in\n%s", out)
	}
	level, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		m.t.Fatal(err)
	}
	return level
}

type processes struct {
	Processes []struct {
		Name, User         string
		PID                int
		Confined, Warnings []string
	}
}

// processes returns what the status says of the daemon's processes.
func (m *machine) processes() (p processes) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.run("webknock", "status", "-o", "json")), &p); err != nil {
		m.t.Fatal(err)
	}
	return p
}

// The unit leaves the keeper two capabilities, and the front none.
func TestTheUnitLeavesLittle(t *testing.T) {
	m := newMachine(t, standard)
	m.boot()
	m.works()
	level := m.exposure()
	t.Logf("exposure level %.1f", level)
	if level > 2.0 {
		t.Errorf("exposure level %.1f\n%s", level, m.run("systemd-analyze", "security", "--no-pager", "webknock.service"))
	}
	all := m.processes().Processes
	if len(all) != 2 || all[0].Name != "keeper" || all[1].Name != "front" {
		t.Fatalf("processes %+v", all)
	}
	for _, p := range all {
		if p.User != "webknock" || len(p.Warnings) > 0 {
			t.Errorf("%+v", p)
		}
		shown := m.run("cat", fmt.Sprintf("/proc/%d/status", p.PID))
		t.Logf("%s:\n%s", p.Name, regexp.MustCompile(`(?m)^(Uid|Groups|Cap|NoNewPrivs|Seccomp).*\n`).FindAllString(shown, -1))
		capabilities := map[string]string{"keeper": "0000000000001400", "front": "0000000000000000"}[p.Name] // CAP_NET_ADMIN, CAP_NET_BIND_SERVICE
		for _, line := range []string{"CapEff:\t" + capabilities, "CapPrm:\t" + capabilities, "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(shown, line) {
				t.Errorf("%s has not %q", p.Name, line)
			}
		}
	}
	if want := []string{"capabilities", "no_new_privs", "rlimits", "landlock", "seccomp"}; !slices.Equal(all[1].Confined, want) {
		t.Errorf("the front has given up %q, want %q", all[1].Confined, want)
	}
}

// With the drop-in commands run as other users, and have no capabilities. The process that
// runs them has three, and the keeper does not use those.
func TestTheUnitRunsCommandsOfOtherUsers(t *testing.T) {
	m := newMachine(t, strings.Replace(standard, "    opens: [ssh]\n", `    opens: [ssh]
    run: [{on: open, user: nobody, command: [/bin/sh, -c, "id -un >/tmp/who; grep Cap /proc/self/status >/tmp/caps"]},
          {on: open, user: nobody, command: [/bin/sleep, "4321"], timeout: 2h}]
`, 1))
	m.onDisk("install", "-D", "-m", "0644", m.Root+"/usr/local/share/doc/webknock/commands.conf", m.Root+"/etc/systemd/system/webknock.service.d/commands.conf")
	m.boot()
	m.works()
	t.Logf("exposure level with commands of other users: %.1f", m.exposure())
	names := []string{}
	for _, p := range m.processes().Processes {
		names = append(names, p.Name)
		shown := m.run("cat", fmt.Sprintf("/proc/%d/status", p.PID))
		t.Logf("%s, confined %q:\n%s", p.Name, p.Confined, regexp.MustCompile(`(?m)^(Uid|Groups|Cap|NoNewPrivs|Seccomp).*\n`).FindAllString(shown, -1))
		capabilities := map[string]string{"keeper": "0000000000001400", "front": "0000000000000000", "commands": "00000000000000e0"}[p.Name] // CAP_KILL, CAP_SETGID, CAP_SETUID
		if !strings.Contains(shown, "CapEff:\t"+capabilities) || p.User != "webknock" || len(p.Warnings) > 0 {
			t.Errorf("%+v", p)
		}
	}
	if want := []string{"keeper", "front", "commands"}; !slices.Equal(names, want) {
		t.Errorf("processes %q", names)
	}
	private := func(name string) string {
		out, _, _ := m.try("sh", "-c", "cat /tmp/systemd-private-*-webknock.service-*/tmp/"+name)
		return out
	}
	until(t, "the command has run", func() bool { return strings.Contains(private("caps"), "CapAmb") })
	if who := strings.TrimSpace(private("who")); who != "nobody" {
		t.Errorf("the command ran as %q", who)
	}
	for line := range strings.Lines(private("caps")) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t"); name != "CapBnd" && strings.Trim(value, "0") != "" {
			t.Errorf("the command has %s", line)
		}
	}
	// What runs them is killed: it is started again, and what hung does not go on.
	hangs := func() bool { _, _, code := m.try("pgrep", "-f", "sleep 4321"); return code == 0 }
	until(t, "the other command hangs", hangs)
	commands := func() int {
		for _, p := range m.processes().Processes {
			if p.Name == "commands" {
				return p.PID
			}
		}
		return 0
	}
	pid := commands()
	m.run("kill", "-9", strconv.Itoa(pid))
	until(t, "another process runs commands", func() bool { now := commands(); return now != 0 && now != pid })
	until(t, "the command has ended", func() bool { return !hangs() })
	if shown := m.run("cat", fmt.Sprintf("/proc/%d/status", commands())); !strings.Contains(shown, "CapEff:\t00000000000000e0") {
		t.Errorf("it has now:\n%s", shown)
	}
}

// What root has begun the unit goes on with: its state.
func TestTheUnitTakesOverWhatRootHasBegun(t *testing.T) {
	m := newMachine(t, standard)
	m.write("/etc/systemd/system/webknock.service.d/root.conf", "[Service]\nUser=root\n")
	m.boot()
	m.works()
	if user := m.processes().Processes[0].User; user != "root" {
		t.Fatalf("the keeper is %s", user)
	}
	m.run("rm", "/etc/systemd/system/webknock.service.d/root.conf")
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "restart", "webknock")
	m.works()
	if user := m.processes().Processes[0].User; user != "webknock" {
		t.Errorf("the keeper is %s", user)
	}
	if out := m.run("find", "/var/lib/webknock", "-not", "-user", "webknock"); out != "" {
		t.Errorf("not webknock's:\n%s", out)
	}
	m.run("webknock", "guard") // as root: writes to what is webknock's
	if out := m.run("find", "/var/lib/webknock", "-not", "-user", "webknock"); out != "" {
		t.Errorf("not webknock's after webknock guard:\n%s", out)
	}
}
