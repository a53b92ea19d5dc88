package keeper

import (
	"strings"

	"webknock/config"
	"webknock/internal/seam"
)

// warnOfShut says which sockets from systemd strangers cannot reach, since a door
// is over their port. Of other listeners the configuration knows that itself.
func (k *Keeper) warnOfShut(cfg *config.Config, listeners []seam.Listener) {
	for i, l := range listeners {
		if !strings.HasPrefix(l.Address, "systemd:") {
			continue
		}
		if door := cfg.DoorOver(cfg.Listeners[i], l.Bound); door != nil {
			k.log.Warn("only who has passed a door already can knock here (take the port out of the door)",
				"listener", l.Address, "port", l.Bound.Port(), "door", door.Name)
		}
	}
}
