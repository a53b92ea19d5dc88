package keeper

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"webknock/internal/command"
	"webknock/internal/seam"
)

// lossy is a front that loses things.
type lossy struct {
	seam.Front
	counts map[string]*atomic.Uint64
}

func (f *lossy) State() (s seam.State) {
	for text, count := range f.counts {
		s.Losses = append(s.Losses, seam.Loss{Kind: text, Message: text, Level: slog.LevelWarn, Count: count.Load()})
	}
	return s
}

func TestLossesAreLoggedInSums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		k := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		k.commands = &commands{runner: command.NewRunner(k.log)}
		kinds := map[string]*atomic.Uint64{"heads too large": {}, "knocks lost": {}, "not banned": {}}
		k.front = &lossy{counts: kinds}
		stop := background(t.Context(), k.reportLosses)
		for _, n := range []uint64{0, 7, 0, 3} {
			for _, counter := range kinds {
				counter.Add(n)
			}
			time.Sleep(lossInterval) // in the bubble
			synctest.Wait()
		}
		kinds["heads too large"].Add(2)
		stop(t.Context()) // what was lost shortly before a stop is logged as well
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		for text := range kinds {
			var counts []string
			for _, line := range lines {
				if strings.Contains(line, text) {
					counts = append(counts, line[strings.LastIndex(line, "count="):])
				}
			}
			want := "[count=7 count=3]"
			if text == "heads too large" {
				want = "[count=7 count=3 count=2]"
			}
			if fmt.Sprint(counts) != want {
				t.Errorf("%s: %v, want %s", text, counts, want)
			}
		}
		if want := 2*len(kinds) + 1; len(lines) != want {
			t.Errorf("%d lines, want %d:\n%s", len(lines), want, &log)
		}
	})
}
