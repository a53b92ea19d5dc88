package sequence_test

import (
	"fmt"
	"time"

	"webknock/sequence"
)

// A client requests /a and then, four seconds later, /b.
func Example() {
	set, err := sequence.NewSet([]sequence.Spec{{
		Name: "ssh",
		Steps: []sequence.Step{
			{Trigger: sequence.Exact("/a")},
			{Trigger: sequence.Exact("/b"), Within: 10 * time.Second},
		},
		Strict: true,
	}}, nil)
	if err != nil {
		panic(err)
	}
	machine := set.Machine("ssh")
	var state sequence.State // of this client in this sequence
	for _, knock := range []struct {
		path string
		at   time.Duration
	}{{"/a", 0}, {"/b", 4 * time.Second}} {
		match := set.Match(sequence.Request{Method: "GET", Path: knock.path}, nil)
		steps, counts := match.Steps(machine)
		if !counts {
			continue // the sequence ignores this path
		}
		var complete bool
		state, complete = machine.Advance(state, steps, knock.at)
		fmt.Printf("%s: %d of %d steps, complete: %v\n", knock.path, state.Step(), machine.Len(), complete)
	}
	// Output:
	// /a: 1 of 2 steps, complete: false
	// /b: 0 of 2 steps, complete: true
}
