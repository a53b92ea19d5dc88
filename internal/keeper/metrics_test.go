package keeper

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"webknock/internal/metrics"
)

// Every kind of loss is a label, which the manual explains.
func TestTheManualHasEveryKindOfLoss(t *testing.T) {
	text, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| what | meaning |")
	table, _, _ = strings.Cut(table, "\n\n")
	var documented []string
	for row := range strings.Lines(table) {
		if cells := strings.Split(row, "|"); len(cells) > 2 {
			for _, kind := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				documented = append(documented, kind[1])
			}
		}
	}
	_, path, stop := dryRun(t, 0)
	stop()
	start, err := Choose(path, false, true)
	if err != nil {
		t.Fatal(err)
	}
	k := New(Options{ConfigFile: path, Start: start, Socket: filepath.Join(t.TempDir(), "s"), DryRun: true, Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Front: newFront})
	defer k.Stop()
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var there []string
	codes := false
	for _, l := range k.losses() {
		if codes = codes || l.Kind == codesLost; l.Kind != codesLost {
			there = append(there, l.Kind)
		}
	}
	slices.Sort(documented)
	slices.Sort(there)
	if !slices.Equal(documented, there) || !codes {
		t.Errorf("the manual has %q, the daemon %q and wrong codes %v", documented, there, codes)
	}
	labels := slices.Sorted(slices.Values(metrics.Losses()))
	if !slices.Equal(labels, there) {
		t.Errorf("the labels are %q, the daemon has %q", labels, there)
	}
}
