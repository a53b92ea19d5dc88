package keeper

import (
	"testing"

	"webknock/internal/event"
	"webknock/internal/seam"
)

func TestCountersOfTheFrontDoNotFallWhenItStartsAgain(t *testing.T) {
	var r rising
	state := func(missed, lost uint64) seam.State {
		return seam.State{
			Knocks: []seam.KnockCount{{Listener: ":8080", Outcome: event.Missed, Count: missed}},
			Losses: []seam.Loss{{Kind: "knocks", Message: "lost", Count: lost}},
		}
	}
	for i, tt := range []struct {
		front        seam.State
		missed, lost uint64
	}{
		{state(5, 1), 5, 1},
		{state(7, 1), 7, 1},
		{state(3, 0), 10, 1}, // another front
		{seam.State{}, 10, 1},
		{state(4, 2), 11, 3},
		{state(0, 0), 11, 3}, // and another
		{state(1, 1), 12, 4},
	} {
		got := r.state(func() seam.State { return tt.front })
		if len(got.Knocks) != 1 || got.Knocks[0].Count != tt.missed || len(got.Losses) != 1 || got.Losses[0].Count != tt.lost || got.Losses[0].Message != "lost" {
			t.Errorf("%d: %+v, want %d missed and %d lost", i, got, tt.missed, tt.lost)
		}
	}
	for i := range 3 * maxLosses { // of a front that makes kinds up
		r.state(func() seam.State { return seam.State{Losses: []seam.Loss{{Kind: string(rune('a' + i)), Count: 1}}} })
	}
	if got := r.state(func() seam.State { return seam.State{} }); len(got.Losses) > maxLosses {
		t.Errorf("%d kinds of losses are remembered", len(got.Losses))
	}
}
