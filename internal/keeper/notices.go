package keeper

import (
	"context"
	"strings"
	"time"

	"webknock/firewall"
	"webknock/internal/notice"
)

// noticeOfGrant tells that a grant was opened.
func (d *Daemon) noticeOfGrant(e firewall.Event) {
	d.notices.Send(notice.Notice{
		Event: notice.Grant, Time: e.Time, Sequence: e.Grant.Sequence, Client: firewall.ClientString(e.Grant.Client), User: e.Grant.User,
		Door: e.Grant.Door, Grant: e.Grant.ID, Expires: e.Grant.Expires,
	})
}

// stateInterval is how often it is looked at whether all is well.
const stateInterval = 5 * time.Second

// watchState tells when there begin to be problems and when there are none any
// more, until ctx is done.
func watchState(ctx context.Context, problems func(context.Context) []string, tell func(notice.Notice)) {
	tick := time.NewTicker(stateInterval)
	defer tick.Stop()
	for degraded := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := problems(ctx)
		if ctx.Err() != nil || degraded == (len(now) > 0) {
			continue
		}
		degraded = !degraded
		tell(notice.Notice{Event: notice.Degraded, Time: time.Now(), Reason: strings.Join(now, "; ")})
	}
}
