package registry

import "time"

// Wait is how long upstream wants to be left alone: what layerstore looks for
// in the error of a source.
func (e *Error) Wait() time.Duration { return e.RetryAfter }

// slow notes that upstream has kept a caller waiting for too long, so that
// the next ones who have something to answer with do not wait too. The first
// answer of upstream ends it.
func (u *upstream) slow(waited time.Duration) {
	u.outage.failed(&Error{Code: CodeTimeout, Message: "upstream is slow: no answer within " + waited.String()})
}
