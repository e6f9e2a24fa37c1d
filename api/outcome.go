package api

import (
	"strconv"
	"strings"
	"time"

	"github.com/imagecache/imagecache/registry"
)

// outcome is how a request was answered, in the words of the access log and
// of the metrics.
type outcome uint8

const (
	outcomeNone    outcome = iota // nothing was looked up
	outcomeHit                    // from here
	outcomeMiss                   // fetched for this request
	outcomeJoined                 // followed a transfer that ran already
	outcomeStale                  // from here, because upstream could not be asked
	outcomeBypass                 // passed through, the store could not keep it
	outcomeRefused                // an error
	outcomes                      // how many there are
)

var outcomeNames = [outcomes]string{
	"", registry.OutcomeHit, registry.OutcomeMiss, registry.OutcomeJoined, registry.OutcomeStale, registry.OutcomeBypass, "refused",
}

func (o outcome) String() string { return outcomeNames[o] }

// outcomeOf reads the registry's word. A word we do not know counts as
// nothing rather than as a hit.
func outcomeOf(answer registry.Answer) outcome {
	for o, name := range outcomeNames[:outcomeRefused] {
		if name == answer.Outcome {
			return outcome(o)
		}
	}
	return outcomeNone
}

// describe tells how it was answered by Cache-Status (RFC 9211) and Age (RFC 9111, section 5.1).
//
// hit and fwd exclude each other (RFC 9211, section 2.2), so a stale answer is
// fwd=stale, with the reason why the forwarding came to nothing as its detail.
// A bypass is a miss whose detail is bypass: RFC 9211 keeps fwd=bypass for
// caches that were configured not to handle a request.
func (w *record) describe(answer registry.Answer) {
	status, detail := cacheStatuses[w.outcome], answer.Detail
	if status == "" {
		return
	}
	fromHere := w.outcome == outcomeHit || w.outcome == outcomeStale
	if answer.Stored && !fromHere {
		status += "; stored"
	}
	if w.outcome == outcomeBypass {
		detail = outcomeBypass.String()
	}
	if detail != "" {
		status += "; detail=" + structured(detail)
	}
	w.put("Cache-Status", status)
	if fromHere {
		w.put("Age", strconv.FormatInt(int64(max(answer.Age, 0)/time.Second), 10))
	}
}

// cacheStatuses are what Cache-Status begins with.
var cacheStatuses = [outcomes]string{
	outcomeHit:    "imagecache; hit",
	outcomeMiss:   "imagecache; fwd=miss",
	outcomeJoined: "imagecache; fwd=miss; collapsed",
	outcomeStale:  "imagecache; fwd=stale",
	outcomeBypass: "imagecache; fwd=miss",
}

// structured writes s as a token when it is a simple word and as a string
// otherwise (RFC 8941, sections 3.3.3 and 3.3.4). What a string cannot hold
// becomes a question mark.
func structured(s string) string {
	simple := true
	for i := range len(s) {
		simple = simple && ('a' <= s[i] && s[i] <= 'z')
	}
	if simple {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20 || c > 0x7e:
			b.WriteByte('?')
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
