package sequence

import "time"

// A Credential is what a valid one-time code has proved. The run that goes on
// with the code carries it to its completion. Machines do not look into it.
type Credential struct {
	User    string    // whose code it was
	KeyID   [8]byte   // identifies the user's secret without revealing it
	Code    string    // as it stood in the path
	Counter int64     // of the code, if it is one of TOTP; 0: it is a ticket
	Nonce   [24]byte  // of the ticket
	Until   time.Time // after that the code would be invalid even if nobody had used it
	Use     uint64    // the number under which its use is recorded
	Request any       // what a ticket of the run asks for; nil: nothing
}
