package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// A serviceManager is told what the daemon does, by sd_notify(3). Without a service
// manager its methods do nothing.
type serviceManager struct{ log *slog.Logger }

// ready reports that the start or a reload is complete.
func (m serviceManager) ready() { m.send(systemd.SdNotifyReady) }

func (m serviceManager) stopping() { m.send(systemd.SdNotifyStopping) }

// reloading reports that a reload has begun; ready ends it. It sends the time by
// the monotonic clock, by which the service manager tells reloads apart.
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

// watchdogRetry is when the watchdog looks again after something did not answer: a
// front that hangs is replaced, which takes less than half of the usual interval.
const watchdogRetry = time.Second

// watchdog notifies the service manager's watchdog twice in every interval, as long
// as the gate and all shards answer, until ctx is done. It returns at once if there
// is no watchdog.
func (k *Keeper) watchdog(ctx context.Context) {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		k.log.Warn("no watchdog", "error", err)
	}
	if interval <= 0 {
		return
	}
	for {
		wait := interval / 2
		if k.answers(ctx) {
			k.manager.send(systemd.SdNotifyWatchdog)
		} else {
			wait = min(wait, watchdogRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// answers waits until the gate and all shards have answered. It returns false if
// one of them has stopped or ctx is done.
func (k *Keeper) answers(ctx context.Context) bool {
	if err := k.gate.Ping(ctx); err != nil {
		return false
	}
	return k.front.Ping(ctx) == nil
}
