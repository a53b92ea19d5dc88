package keeper

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"webknock/httpd/admin"
	"webknock/internal/event"
	"webknock/internal/front"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// busy returns the spans in which something happened, as TIME MISSED COMPLETIONS GRANTS.
func busy(spans []admin.Span) (all []string) {
	for _, s := range spans {
		if s.Knocks["missed"]+s.Completions+s.Grants > 0 {
			all = append(all, fmt.Sprint(s.At.Format("15:04"), " ", s.Knocks["missed"], " ", s.Completions, " ", s.Grants))
		}
	}
	return all
}

func missedKnocks(knocks, completions, grants uint64) tally {
	return tally{map[event.Outcome]uint64{"missed": knocks}, completions, grants}
}

func TestWhatHappensBelongsToItsMinuteAndItsHour(t *testing.T) {
	s := newStats(noon.Add(10 * time.Second))
	s.record(noon.Add(30*time.Second), missedKnocks(5, 1, 0))
	s.record(noon.Add(time.Minute), missedKnocks(7, 1, 1)) // when the minute ends
	s.record(noon.Add(time.Minute+time.Second), missedKnocks(8, 1, 1))
	s.record(noon.Add(59*time.Minute), missedKnocks(8, 1, 1))
	s.record(noon.Add(61*time.Minute), missedKnocks(108, 1, 1))
	got := s.list()
	if len(got.Minutes) != keptMinutes || len(got.Hours) != keptHours {
		t.Fatalf("%d minutes, %d hours", len(got.Minutes), len(got.Hours))
	}
	// The minute of 12:00 is over an hour ago; the last hundred knocks came from 12:59 on.
	if minutes := busy(got.Minutes); !slices.Equal(minutes, []string{"12:59 100 0 0"}) {
		t.Errorf("minutes %q", minutes)
	}
	if hours := busy(got.Hours); !slices.Equal(hours, []string{"12:00 108 1 1"}) {
		t.Errorf("hours %q", hours)
	}
	if last := got.Minutes[keptMinutes-1].At; !last.Equal(noon.Add(61 * time.Minute)) {
		t.Errorf("the last minute is that of %v", last)
	}
	for _, outcome := range event.Outcomes() {
		if _, ok := got.Minutes[0].Knocks[string(outcome)]; !ok {
			t.Errorf("no %s", outcome)
		}
	}
}

// A daemon on a host that sleeps, or whose clock is set, shows no more spans and no
// negative counts.
func TestStatsSurviveAClockThatIsSetAndACountThatStartsAgain(t *testing.T) {
	s := newStats(noon)
	s.record(noon.Add(time.Second), missedKnocks(5, 0, 0))
	s.record(noon.Add(-3*time.Hour), missedKnocks(6, 0, 0))
	s.record(noon.Add(-3*time.Hour+time.Second), missedKnocks(8, 0, 0))
	if got := busy(s.list().Minutes); !slices.Equal(got, []string{"09:00 8 0 0"}) {
		t.Errorf("after the clock was set back: %q", got)
	}
	s.record(noon, missedKnocks(2, 0, 0))
	if got := busy(s.list().Hours); !slices.Equal(got, []string{"09:00 10 0 0"}) {
		t.Errorf("after the count has started again: %q", got)
	}
	s.record(noon.Add(1000*time.Hour), missedKnocks(2, 0, 0))
	got := s.list()
	if len(busy(got.Minutes))+len(busy(got.Hours)) != 0 || len(got.Minutes) != keptMinutes || len(got.Hours) != keptHours {
		t.Errorf("after a long sleep: %d and %d spans, %q, %q", len(got.Minutes), len(got.Hours), busy(got.Minutes), busy(got.Hours))
	}
}

func TestAMinuteIsRecordedWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock starts at midnight
		time.Sleep(20 * time.Second)
		k := New(Options{Log: slog.New(slog.DiscardHandler)})
		k.front = front.New(front.Options{Keeper: k, Log: k.log})
		k.stats = newStats(time.Now())
		stop := background(t.Context(), k.recordStats)
		k.opened.add(3)
		time.Sleep(41 * time.Second) // a minute has ended
		k.opened.add(1)
		time.Sleep(58 * time.Second)
		s, err := k.Stats(t.Context())
		if got := busy(s.Minutes); err != nil || !slices.Equal(got, []string{"00:00 0 0 3", "00:01 0 0 1"}) {
			t.Errorf("%q, %v", got, err)
		}
		if err := stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
