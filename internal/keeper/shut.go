package keeper

import (
	"strings"

	"webknock/config"
)

// warnOfShut warns of sockets from systemd that nobody can knock at, because their
// port is behind a door. For other listeners the configuration is checked itself.
func (k *Keeper) warnOfShut(cfg *config.Config, listeners []listener) {
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
