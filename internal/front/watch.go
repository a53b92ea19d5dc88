package front

import (
	"sync"
	"sync/atomic"
	"time"

	"webknock/internal/event"
	"webknock/internal/seam"
)

// A watch tells the keeper what became of knocks, while that wants to know: in batches,
// so that a flood of strangers costs it little.
type watch struct {
	keeper seam.Keeper
	on     atomic.Bool

	telling sync.Mutex // held while the keeper is told, so that batches keep their order

	mu     sync.Mutex
	batch  []event.Knock
	missed uint64
	timer  *time.Timer // runs while there is something to tell
}

// forStrangers is how many knocks of a batch may be misses, so that a flood of strangers
// does not push out who matters.
const forStrangers = seam.MaxKnocks * 3 / 4

func newWatch(keeper seam.Keeper) *watch { return &watch{keeper: keeper} }

// set says whether the keeper wants to know.
func (w *watch) set(on bool) { w.on.Store(on) }

// wanted reports whether the keeper wants to know.
func (w *watch) wanted() bool { return w != nil && w.on.Load() }

// tell puts a knock into the next batch, if that has room.
func (w *watch) tell(k event.Knock) {
	w.mu.Lock()
	defer w.mu.Unlock()
	room := seam.MaxKnocks
	if k.Outcome == event.Missed {
		room = forStrangers
	}
	if len(w.batch) >= room {
		w.missed++
	} else {
		w.batch = append(w.batch, k)
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(seam.KnocksInterval, w.flush)
	}
}

// flush tells the keeper what there is to tell.
func (w *watch) flush() {
	w.telling.Lock()
	defer w.telling.Unlock()
	w.mu.Lock()
	batch, missed := w.batch, w.missed
	w.batch, w.missed, w.timer = nil, 0, nil
	w.mu.Unlock()
	if len(batch) > 0 {
		w.keeper.Knocks(batch, missed)
	}
}

// stop tells what there is to tell. Call it when the shards have stopped.
func (w *watch) stop() {
	w.mu.Lock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	w.flush()
}
