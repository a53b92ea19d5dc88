package keeper

import (
	"webknock/httpd/admin"
	"webknock/internal/confine"
)

// A supervisor is a front that has processes of its own.
type supervisor interface{ Processes() []confine.Info }

// processes describes the processes of the daemon. A front without one of its own is
// none.
func (k *Keeper) processes() (all []admin.Process) {
	infos := []confine.Info{confine.Here("keeper")}
	if k.supervisor != nil {
		infos = append(infos, k.supervisor.Processes()...)
	}
	infos = append(infos, k.commands.processes()...)
	for _, i := range infos {
		all = append(all, admin.Process{Name: i.Name, PID: i.PID, User: i.User, Confined: i.Confined, Warnings: i.Warnings})
	}
	return all
}
