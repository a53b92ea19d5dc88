package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// A serviceManager tells the service manager what the daemon does, as sd_notify(3)
// has it. Where there is no service manager it does nothing.
type serviceManager struct{ log *slog.Logger }

// ready says that start or reload is complete.
func (m serviceManager) ready() { m.send(systemd.SdNotifyReady) }

func (m serviceManager) stopping() { m.send(systemd.SdNotifyStopping) }

// reloading says that a reload has begun; ready ends it. The service manager
// wants to know when, to tell it from an earlier one.
func (m serviceManager) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.log.Warn("cannot read the monotonic clock", "error", err)
	}
	m.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", systemd.SdNotifyReloading, now.Nano()/1000))
}

func (m serviceManager) send(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		m.log.Warn("cannot notify the service manager", "error", err)
	}
}

// watchdog tells the service manager's watchdog, twice in every interval that
// it grants, that the gate and all shards answer, until ctx is done. It returns
// at once if there is no watchdog.
func (k *Keeper) watchdog(ctx context.Context) {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		k.log.Warn("no watchdog", "error", err)
	}
	if interval <= 0 {
		return
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		if k.answers(ctx) {
			k.manager.send(systemd.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// answers waits until every goroutine that owns state has answered, and reports
// false if ctx is done before.
func (k *Keeper) answers(ctx context.Context) bool {
	if err := k.gate.Ping(ctx); err != nil {
		return false
	}
	return k.front.Ping(ctx) == nil
}
