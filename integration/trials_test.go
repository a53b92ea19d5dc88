package integration

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// other is another configuration than standard: its sequence is /new.
var other = strings.Replace(standard, "steps: [/a, /b, /c]", "steps: [/new]", 1)

// mustRun fails unless standard is in force, or other.
func (w *world) mustRun(text string) {
	w.t.Helper()
	w.mustPass(w.mallory, serverIP, 22, false)
	right, wrong := []string{"/a", "/b", "/c"}, []string{"/new"}
	if text == other {
		right, wrong = wrong, right
	}
	w.knock(w.alice, serverIP, wrong...)
	w.knock(w.alice, serverIP, right...)
	w.mustBecome("ssh " + aliceIP)
	if n := w.completions("ssh"); n != 1 {
		w.t.Errorf("completed %d times, by what is not in force as well", n)
	}
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
	w.must("close", "--all")
}

// hangUp sends SIGHUP and waits until the log says what became of it.
func (w *world) hangUp(says string) {
	w.t.Helper()
	if err := w.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		w.t.Fatal(err)
	}
	w.daemon.wait(w.t, says)
}

func TestAnUnconfirmedReloadStaysUndone(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.configure(other)
	w.must("reload", "--confirm", "1s")
	w.daemon.wait(t, "nobody has confirmed the reload")
	w.mustSay("is not what runs", "nobody has confirmed")
	w.mustRun(standard)
	w.hangUp("not reloaded")
	w.mustSay("is not what runs", "nobody has confirmed")

	// The file is still there at the next start.
	stderr, exit := w.boot()
	if exit != 1 || !strings.Contains(stderr, "nobody has confirmed") || !strings.Contains(stderr, "guarded, by the last good guard") {
		t.Errorf("guard: exit %d, %s", exit, stderr)
	}
	w.daemon.wait(t, `"serving"`)
	w.mustSay("is not what runs", "nobody has confirmed")
	w.mustRun(standard)

	// Asked for, it is in force for good.
	w.must("reload")
	w.mustSay()
	w.mustRun(other)
	if stderr, exit := w.boot("--confirm", "1s"); exit != 0 {
		t.Errorf("guard: exit %d, %s", exit, stderr)
	}
	w.daemon.wait(t, `"serving"`)
	w.daemon.wait(t, "no trial")
	w.mustSay()
	w.mustRun(other)
}

func TestAnUnconfirmedFileMayBeReloadedAfterItChanged(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.configure(other)
	w.must("reload", "--confirm", "1s")
	w.daemon.wait(t, "nobody has confirmed the reload")
	w.configure(other + "# mended\n")
	w.hangUp(`"reloaded"`)
	until(t, "the reload succeeds", func() bool { return w.status().State == "ok" })
	w.mustRun(other)
	if stderr, exit := w.boot(); exit != 0 {
		t.Errorf("guard: exit %d, %s", exit, stderr)
	}
	w.daemon.wait(t, `"serving"`)
	w.mustSay()
	w.mustRun(other)
}

// An administrator whom a trial locks out may restart the machine before the trial ends.
func TestATrialThatIsInterruptedIsUndone(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"a stop": syscall.SIGTERM, "a crash": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			w.serve(standard)
			w.configure(other)
			w.must("reload", "--confirm", "1h")
			w.mustRun(other)
			w.must("guard") // as after a restart of nftables.service: no failure while the trial goes on
			w.daemon.stop(t, signal)
			w.daemon = nil
			w.boot()
			w.daemon.wait(t, `"serving"`)
			w.mustSay("is not what runs", "nobody has confirmed")
			w.mustRun(standard)
		})
	}
}

func TestAStartIsATrialUnlessItsConfigurationWasConfirmed(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.configure(standard)
	w.env = []string{"WEBKNOCK_CONFIRM=1h"}
	w.boot()
	w.daemon.wait(t, "waiting for webknock confirm")
	if s := w.status(); s.ConfirmBy == "" {
		t.Errorf("no trial: %+v", s)
	}
	w.must("confirm")
	w.boot()
	w.daemon.wait(t, `"serving"`)
	if s := w.status(); s.ConfirmBy != "" {
		t.Errorf("what was confirmed is on trial: %+v", s)
	}
	w.mustRun(standard)

	// Another file is on trial, and nobody confirms it.
	w.configure(other)
	w.env = []string{"WEBKNOCK_CONFIRM=1s"}
	w.boot()
	w.daemon.wait(t, "nobody has confirmed the start")
	w.mustPass(w.mallory, serverIP, 22, true)
	w.mustSay("nobody has confirmed the start")

	// As when a terminal is closed.
	w.hangUp("not reloaded by SIGHUP")
	w.mustPass(w.mallory, serverIP, 22, true)
	w.mustSay("nobody has confirmed the start")

	// The next boot goes back to what was confirmed.
	if stderr, exit := w.boot(); exit != 1 || !strings.Contains(stderr, "guarded, by the last good guard") {
		t.Errorf("guard: exit %d, %s", exit, stderr)
	}
	w.daemon.wait(t, `"serving"`)
	w.mustSay("is not what runs", "nobody has confirmed")
	w.mustRun(standard)

	// A value that is no duration does without no trial.
	w.configure(other + "# again\n")
	w.env = []string{"WEBKNOCK_CONFIRM=2"}
	w.boot()
	w.daemon.wait(t, "waiting for webknock confirm")
	w.daemon.wait(t, "WEBKNOCK_CONFIRM is not a duration")
	w.must("confirm")
	w.mustSay()
}

func TestAConfigurationThatRanWithoutATrialStartsWithoutOne(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.env = []string{"WEBKNOCK_CONFIRM=1s"}
	w.boot()
	w.daemon.wait(t, `"serving"`)
	w.daemon.wait(t, "no trial")
	w.mustRun(standard)
	// Somebody at a terminal who asks for a trial gets one.
	w.boot("--confirm", "1h")
	w.daemon.wait(t, "waiting for webknock confirm")
}

func TestAFirstStartMayBeTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.configure(standard)
	w.boot("--confirm", "1h")
	w.daemon.wait(t, "waiting for webknock confirm")
	w.daemon.stop(t, syscall.SIGTERM)
	w.daemon = nil
	w.mustPass(w.mallory, serverIP, 22, true)
	w.boot("--confirm", "1s")
	w.daemon.wait(t, "nobody has confirmed the start")
	w.daemon.stop(t, syscall.SIGTERM)

	// Its time is over: it waits until it is asked for.
	w.daemon = nil
	if stderr, exit := w.boot("--confirm", "1s"); exit != 1 || !strings.Contains(stderr, "no last good guard") {
		t.Errorf("guard: exit %d, %s", exit, stderr)
	}
	<-w.daemon.done
	if log := w.daemon.lines(); w.daemon.cmd.ProcessState.ExitCode() != 1 || len(log) != 1 || !strings.Contains(log[0], "webknock reload") {
		t.Errorf("serve: %v, %q", w.daemon.cmd.ProcessState, log)
	}
	w.mustPass(w.mallory, serverIP, 22, true)
	if _, stderr, exit := w.webknock("reload"); exit != 1 || !strings.Contains(stderr, "at the next start") {
		t.Errorf("reload: exit %d, %s", exit, stderr)
	}
	w.daemon = nil
	w.boot("--confirm", "1h")
	w.daemon.wait(t, "waiting for webknock confirm")
	w.must("confirm")
	w.mustRun(standard)
}

func TestAGuardThatWasRemovedOnPurposeStaysRemoved(t *testing.T) {
	for name, running := range map[string]bool{"by the daemon": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			w.serve(standard)
			if running {
				w.must("unguard")
				w.hangUp("not reloaded by SIGHUP")
				w.mustPass(w.mallory, serverIP, 22, true)
				w.configure(standard + "nonsense: 1\n")
			} else {
				w.daemon.stop(t, syscall.SIGTERM)
				w.daemon = nil
				w.mustPass(w.mallory, serverIP, 22, false)
				w.configure(standard + "nonsense: 1\n")
				w.must("unguard")
				w.mustPass(w.mallory, serverIP, 22, true)
			}
			stderr, exit := w.boot()
			if exit != 1 || !strings.Contains(stderr, "taken away on purpose") {
				t.Errorf("guard: exit %d, %s", exit, stderr)
			}
			w.daemon.wait(t, `"serving"`)
			w.mustPass(w.mallory, serverIP, 22, true)
			w.mustSay("unknown key", "the guard was taken away")
			if w.status().Firewall.Guarded {
				t.Error("the status says that the doors are guarded")
			}
			w.configure(standard)
			w.must("reload")
			w.mustSay()
			w.mustRun(standard)
			// From then on it is there for good.
			w.configure(standard + "nonsense: 1\n")
			w.boot()
			w.daemon.wait(t, `"serving"`)
			w.mustRun(standard)
		})
	}
}

func TestAFailedReloadIsDegradedUntilOneSucceeds(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.configure(standard + "nonsense: 1\n")
	w.hangUp("not reloaded")
	w.mustSay("is not what runs", "unknown key")
	// The socket is found in the broken file, and the errors are shown.
	for _, text := range []string{"nonsense: 1\n", "doors: [\n"} {
		w.configure(standard + text)
		cmd := w.server.Command(t.Context(), binary, "reload", "--config", w.config())
		if out, err := cmd.CombinedOutput(); err == nil || strings.Contains(string(out), "no daemon") || !strings.Contains(string(out), "webknock.yaml:") {
			t.Errorf("reload: %v, %s", err, out)
		}
		w.mustSay("is not what runs", "webknock.yaml:")
	}
	// Nor does a file help that names another socket.
	text, err := os.ReadFile(w.config())
	if err == nil {
		err = os.WriteFile(w.config(), []byte(strings.ReplaceAll(string(text), "webknock.sock", "other.sock")), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := w.server.Command(t.Context(), binary, "status", "--config", w.config())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "degraded") {
		t.Errorf("status: %v, %s", err, out)
	}
	w.configure(standard)
	w.hangUp(`"reloaded"`)
	until(t, "the reload succeeds", func() bool { return w.status().State == "ok" })
	w.mustRun(standard)
}

func TestTheDoctorJudgesWhatWasInForceBesideABrokenFile(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.configure(standard + "nonsense: 1\n")
	if out, _, code := w.webknock("doctor"); code != 1 || !strings.Contains(out, "unknown key") || !strings.Contains(out, "no door is judged") {
		t.Errorf("with nothing kept: exit %d\n%s", code, out)
	}
	w.serve(standard)
	w.configure(strings.Replace(standard, "22/tcp", "22/tpc", 1) + "nonsense: 1\n")
	out, stderr, code := w.webknock("doctor", "-o", "json")
	var report struct {
		Status   string
		Findings []struct{ Check, Subject, Status, Detail string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 1 || report.Status != "fail" {
		t.Fatalf("exit %d, %v\n%s%s", code, err, out, stderr)
	}
	errs, shut := 0, 0
	for _, f := range report.Findings {
		if f.Check == "configuration" && f.Status == "fail" {
			errs++
		}
		if f.Check == "shut" && strings.Contains(f.Subject, "ssh") && f.Status == "ok" {
			shut++
		}
	}
	if errs != 2 || shut == 0 {
		t.Errorf("%d errors, ssh found shut %d times:\n%s", errs, shut, out)
	}
}

func TestAMistakeInTheFirstConfigurationTouchesNoFirewall(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.configure(standard + "nonsense: 1\n")
	stderr, exit := w.boot()
	if exit != 1 || !strings.Contains(stderr, "unknown key") || !strings.Contains(stderr, "no last good guard") {
		t.Errorf("guard: exit %d, %s", exit, stderr)
	}
	<-w.daemon.done
	if log := w.daemon.lines(); w.daemon.cmd.ProcessState.ExitCode() != 1 || len(log) != 1 || !strings.Contains(log[0], "unknown key") {
		t.Errorf("serve: %v, %q", w.daemon.cmd.ProcessState, log)
	}
	if tables := w.nft("list", "tables"); tables != "" {
		t.Errorf("there are tables: %s", tables)
	}
}

// An address may come late. Until then the others serve.
func TestAListenerIsOpenedWhenItsAddressAppears(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.configure(strings.Replace(other, `":8080"`, `"10.20.0.77:8081"`, 1))
	w.boot()
	w.daemon.wait(t, `"serving"`)
	w.mustSay("is not what runs", "10.20.0.77")
	w.mustRun(standard)
	if out, err := w.server.Command(t.Context(), "ip", "address", "add", "10.20.0.77/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v\n%s", err, out)
	}
	w.daemon.wait(t, "what was in the way of the file at the start has gone")
	w.mustSay()
	w.mustPass(w.mallory, serverIP, 22, false)
}

// The unit of the guard has three capabilities only, and state belongs to whom the
// daemon runs as, also what the guard writes there.
func TestTheGuardReadsTheStateOfAnyUser(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.daemon.stop(t, syscall.SIGTERM)
	w.nft("flush", "ruleset")
	w.configure(standard + "nonsense: 1\n")
	if out, err := exec.Command("chown", "-R", "nobody:nogroup", w.dir+"/state").CombinedOutput(); err != nil {
		t.Fatalf("chown: %v\n%s", err, out)
	}
	if err := os.Chmod(w.dir+"/state", 0o700); err != nil {
		t.Fatal(err)
	}
	guard := func(caps string) string {
		cmd := w.server.Command(context.Background(), "setpriv", "--bounding-set", "-all,"+caps, "--inh-caps", "-all,"+caps, "--no-new-privs",
			binary, "guard", "--config", w.config())
		out, err := cmd.CombinedOutput()
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
			t.Fatalf("guard with %s: %v\n%s", caps, err, out)
		}
		return string(out)
	}
	if out := guard("+net_admin"); !strings.Contains(out, "permission denied") {
		t.Errorf("without CAP_DAC_OVERRIDE: %s", out)
	}
	w.mustPass(w.mallory, serverIP, 22, true)
	if out := guard("+net_admin,+dac_override,+chown"); !strings.Contains(out, "guarded, by the last good guard") {
		t.Errorf("as in the unit: %s", out)
	}
	w.mustPass(w.mallory, serverIP, 22, false)
	unit, err := os.ReadFile("../docs/systemd/webknock-guard.service")
	if err != nil || !strings.Contains(string(unit), "\nCapabilityBoundingSet=CAP_NET_ADMIN CAP_DAC_OVERRIDE CAP_CHOWN\n") {
		t.Errorf("the unit has other capabilities: %v", err)
	}
	if out, err := exec.Command("find", w.dir+"/state", "-not", "-user", "nobody").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("not the daemon's: %v\n%s", err, out)
	}
}
