// Package sequence decides whether the knocks of one client complete a sequence.
//
// Start with [NewSet]: it takes the [Spec] of each sequence and returns a [Set].
// For each knock, [Set.Match] says which steps of which sequences the request
// matches, and [Machine.Advance] takes one client's [State] and those steps to
// the client's next State. The caller keeps the States, one for each client and
// sequence; package track does that.
//
// The package is pure: it reads no clock, does no I/O and starts no goroutine.
// Time is a parameter, and the same arguments always give the same results.
//
// # When a sequence completes
//
// Take one client's knocks since its last completion of the sequence. Strike
// out the knocks that Ignore matches, the knocks that the caller strikes out
// ([Match.Strike]: one-time codes that this client has itself used before), and,
// unless the sequence is Strict, the knocks that match none of its steps. (The
// caller has already left out prefetches.) The sequence completes with a knock
// exactly when some run of latest knocks, ending with it, has the form
//
//	s1+ s2+ … sn
//
// (each step once or more, in order, nothing in between, the last step once),
// the first knock of each step comes no later than that step's Within after
// the first knock of the step before, and the whole run spans no more than
// Window.
//
// # Where things are
//
// A sequence is a [Spec] of steps. The [Trigger] of a [Step] says which paths it
// matches; each kind of trigger has a file of its own. The [Conditions] say what
// else it asks of the request. A [Set] matches requests against all sequences at
// once. A [Machine] advances clients through one sequence, and a [State] is how
// far one client is in it.
package sequence
