package admin

import (
	"context"
	"time"
)

// Stats is the answer to GET /v1/stats: how much happened lately. Both lists have the
// oldest first, and their last item is still going on.
type Stats struct {
	Minutes List[Span] `json:"minutes"` // 60
	Hours   List[Span] `json:"hours"`   // 24
}

// A Span is what happened in a minute or an hour. What happened before the daemon started
// is 0.
type Span struct {
	At          time.Time         `json:"at"`     // when it began
	Knocks      map[string]uint64 `json:"knocks"` // by outcome; every outcome is there
	Completions uint64            `json:"completions"`
	Grants      uint64            `json:"grants"` // opened; a renewal is none
}

// Stats returns GET /v1/stats.
func (a API) Stats(ctx context.Context) (s Stats, err error) {
	err = a.call(ctx, "GET", "/v1/stats", nil, &s)
	return s, err
}
