package onetime

import "time"

// A Reason says why a code does not count. The client is not told.
type Reason uint8

// The reasons.
const (
	Accepted     Reason = iota // it counts
	Wrong                      // it is nobody's code of now
	UsedAlready                // somebody has used it
	WrongTime                  // the ticket's time is too far from this host's
	OtherUser                  // it is of another user than the code of the step before
	NotAdmitted                // its user may not use it for this sequence, or the ticket asks for what the sequence does not allow
	TooManyWrong               // its client has sent too many wrong codes
	TooManyUsed                // its user has used too many tickets
	NotReady                   // which codes were used cannot be read, so that none counts
)

// A Refusal says why a code does not count.
type Refusal struct {
	Reason Reason
	Off    time.Duration // of WrongTime: by how much the ticket is ahead of this host's clock
}

// refusal returns why a code does not count for a claim.
func (c Claim) refusal(m match, accepted bool) Refusal {
	switch {
	case accepted:
		return Refusal{}
	case len(m.owners) == 0:
		return m.refusal
	case c.Run != nil && (c.Run.User != m.owners[0].name || c.Run.KeyID != m.owners[0].id):
		return Refusal{Reason: OtherUser}
	}
	return Refusal{Reason: NotAdmitted}
}
