// Package track remembers how far clients are in their sequences.
//
// Start with [New]: it returns a [Tracker] for the clients of one shard.
// [Tracker.Advance] takes a knock of a client and returns the sequences that it
// completes. One goroutine owns a tracker, which has no lock of its own. The
// trackers of all shards share a [Bound], which limits how many clients are in
// progress at once.
//
// # How the cache is used
//
// A tracker keeps its clients in a go-cache (github.com/patrickmn/go-cache), one
// entry for each client in progress:
//
//   - Only a knock at a first step adds an entry, and only if the Bound has a
//     place for it. No client in progress is thrown out to make room.
//   - Each entry holds one place of the Bound. The cache's OnEvicted gives the
//     place back, whatever removes the entry: a completion, a wrong path, a new
//     configuration, or expiry.
//   - An entry expires when no further knock can build on its progress. That is
//     a [sequence.Machine.Deadline], on the monotonic clock: [Tracker.Sweep]
//     deletes the entries whose deadline is past, and a knock after its deadline
//     counts as the first one, swept or not.
//
// The cache's own expiry is switched off, and so is its cleaning goroutine. Both
// go by the wall clock: if somebody set it forward, clients in the middle of
// their sequence would start over, and if somebody set it back, old progress
// would count again. The goroutine would also take the tracker from its owner.
package track
