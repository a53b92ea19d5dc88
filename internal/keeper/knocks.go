package keeper

import "webknock/internal/event"

// Knocks implements seam.Keeper. Strangers decide how many knocks there are; the front
// bounds what of them comes here.
func (k *Keeper) Knocks(knocks []event.Knock, missed uint64) {
	k.events.Miss(event.KindKnock, missed)
	for _, knock := range knocks {
		k.events.PublishAt(knock.At, knock)
	}
}

// watchKnocks has the front tell of knocks while somebody subscribes to them.
func (k *Keeper) watchKnocks() { k.events.OnWanted(event.KindKnock, k.front.WatchKnocks) }
