package keeper

import (
	"strings"

	"webknock/config"
)

// warnOfShut says which sockets from systemd strangers cannot reach, since a door
// is over their port. Of other listeners the configuration knows that itself.
func (d *Daemon) warnOfShut(cfg *config.Config, listeners []*listener) {
	for i, l := range listeners {
		if !strings.HasPrefix(l.address, "systemd:") {
			continue
		}
		if door := cfg.DoorOver(cfg.Listeners[i], l.Addr()); door != nil {
			d.Log.Warn("only who has passed a door already can knock here (take the port out of the door)",
				"listener", l.address, "port", l.Addr().Port(), "door", door.Name)
		}
	}
}
