package keeper

import (
	"time"

	"webknock/internal/event"
	"webknock/internal/seam"
)

// mostMissed bounds how many knocks a front has missed in one interval. Each takes an ID of
// the bus, and those must not begin anew.
const mostMissed = 1 << 32

// Knocks implements seam.Keeper. Strangers decide how many knocks there are; the front
// bounds what of them comes here.
func (k *Keeper) Knocks(knocks []event.Knock, missed uint64) {
	now := time.Now()
	switch {
	case len(knocks) > seam.MaxKnocks || !k.asked.knocks.take(now):
		k.asked.refuse("to tell of knocks", errTooOften)
		return
	case missed > mostMissed:
		k.asked.refuse("to tell of knocks", errMalformed)
		return
	}
	cfg, listeners := k.config.Load(), k.currentListeners()
	k.events.Miss(event.KindKnock, missed)
	for _, knock := range knocks {
		if knock, ok := publishable(cfg, listeners, knock, now); ok {
			k.events.PublishAt(knock.At, knock)
		} else {
			k.asked.refuse("to tell of a knock", errMalformed)
		}
	}
}

// watchKnocks has the front tell of knocks while somebody subscribes to them.
func (k *Keeper) watchKnocks() { k.events.OnWanted(event.KindKnock, k.front.WatchKnocks) }
