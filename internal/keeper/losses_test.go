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

// A front that was taken over neither passes its losses off as the keeper's nor hides
// those.
func TestTheFrontHasNoLossesOfTheKeeper(t *testing.T) {
	var log bytes.Buffer
	k := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	k.commands = &commands{runner: command.NewRunner(k.log)}
	forged := new(atomic.Uint64)
	forged.Store(7)
	k.front = &lossy{counts: map[string]*atomic.Uint64{"asked": forged, "heads": forged}}
	k.asked.refuse("a test", errTooOften)
	log.Reset()
	reported := map[string]uint64{}
	k.reportSince(reported)
	if reported["asked"] != 1 {
		t.Errorf("%d refusals are reported, want 1", reported["asked"])
	}
	for _, line := range strings.Split(strings.TrimSpace(log.String()), "\n") {
		if front := strings.Contains(line, "msg=heads"); front != strings.Contains(line, "process=front") {
			t.Error(line)
		}
	}
	kinds := map[string]int{}
	for _, l := range k.losses() {
		if kinds[l.Kind]++; kinds[l.Kind] > 1 { // which no metric may have
			t.Errorf("%s is there twice", l.Kind)
		}
	}
}
