package lastgood

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/atomicfile"
)

func TestAFileIsReadAsWrittenAndIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if g, err := ReadGuard(path); g != nil || err != nil {
		t.Errorf("a guard of nothing: %v, %v", g, err)
	}
	guard := Guard{Backend: "nftables", Table: "webknock", Guard: firewall.Guard{
		Doors: []firewall.Door{{Name: "ssh", Ports: []firewall.Ports{{Protocol: firewall.TCP, First: 22, Last: 22}}, TTL: time.Second, MaxTTL: time.Hour,
			Established: firewall.Cut, MaxGrants: 7, Connections: 3, Forward: netip.MustParseAddrPort("[2001:db8::5]:22"), Prefix4: 24, Prefix6: 64}},
		Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Mark: 0x40000000, Mode: firewall.Sets, Owner: true,
	}}
	c := Config{Since: time.Unix(1, 0).UTC(), Source: &config.Source{File: "/w.yaml", Text: "a: \x01ü\n", Environment: map[string]string{"state": path},
		Certificates: map[string]string{"/c": "pem"}}}
	trials := Trials{Confirmed: []string{"a"}, Undone: []string{"b"}}
	dir := atomicfile.NewDir(path)
	for range 2 {
		if err := WriteGuard(dir, guard); err != nil {
			t.Fatal(err)
		}
		if err := WriteConfig(dir, c); err != nil {
			t.Fatal(err)
		}
		if err := WriteTrials(dir, trials); err != nil {
			t.Fatal(err)
		}
	}
	if g, err := ReadGuard(path); err != nil || !reflect.DeepEqual(*g, guard) {
		t.Errorf("%+v, %v\nwant %+v", g, err, guard)
	}
	if got, err := ReadConfig(path); err != nil || !reflect.DeepEqual(*got, c) {
		t.Errorf("%+v, %v\nwant %+v", got, err, c)
	}
	if got, err := ReadTrials(path); err != nil || !reflect.DeepEqual(got, trials) {
		t.Errorf("%+v, %v\nwant %+v", got, err, trials)
	}
	away := time.Unix(2, 0).UTC()
	if err := MarkGuard(dir, away); err != nil {
		t.Fatal(err)
	}
	if g, err := ReadGuard(path); err != nil || !g.TakenAway.Equal(away) || !reflect.DeepEqual(g.Guard, guard.Guard) {
		t.Errorf("taken away: %+v, %v", g, err)
	}
	for _, name := range []string{guardFile, configFile, trialsFile} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestADamagedFileIsAnError(t *testing.T) {
	path := t.TempDir()
	for _, text := range []string{"", "{", "[]", "null", "{}"} {
		if err := os.WriteFile(filepath.Join(path, configFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := ReadConfig(path); err == nil {
			t.Errorf("%q is read as %+v", text, c)
		}
	}
}

func TestAFileIsConfirmedOrUndoneAndNotBoth(t *testing.T) {
	var trials Trials
	if !trials.Undo("a") || trials.Undo("a") || !trials.Confirm("a") || trials.Confirm("a") || len(trials.Undone) > 0 {
		t.Errorf("confirmed: %+v", trials)
	}
	if !trials.Undo("a") || len(trials.Confirmed) > 0 || !trials.Forget("a") || trials.Forget("a") || len(trials.Undone) > 0 {
		t.Errorf("forgotten: %+v", trials)
	}
	for i := range 2 * maxTrials {
		trials.Undo(strconv.Itoa(i))
	}
	if len(trials.Undone) != maxTrials || !slices.Contains(trials.Undone, strconv.Itoa(2*maxTrials-1)) {
		t.Errorf("%d are remembered, the latest among them %v", len(trials.Undone), trials.Undone)
	}
}

func TestTheRecordOfAnotherConfigurationFileIsIgnored(t *testing.T) {
	mine, standard := t.TempDir(), t.TempDir()
	write := func(path, file string) {
		t.Helper()
		dir := atomicfile.NewDir(path)
		defer dir.Close()
		if err := WriteConfig(dir, Config{Source: &config.Source{File: file}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := Dir("/my.yaml", mine, standard); got != mine {
		t.Errorf("with nothing kept: %s", got)
	}
	write(standard, "/other.yaml")
	if got := Dir("/my.yaml", mine, standard); got != mine {
		t.Errorf("another's is taken: %s", got)
	}
	write(standard, "/my.yaml")
	if got := Dir("/my.yaml", mine, standard); got != standard {
		t.Errorf("the file's own is not taken: %s", got)
	}
	write(mine, "/my.yaml")
	if got := Dir("/my.yaml", mine, standard); got != mine {
		t.Errorf("its state comes first: %s", got)
	}
}
