package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Code says what kind of answer an [Error] is. Where the OCI distribution spec
// 1.1 has an error code for it, the Code is that one; the others are ours.
type Code string

// Codes. The comment tells whose doing each is.
const (
	CodeNameInvalid     Code = "NAME_INVALID"     // the caller's: a registry or repository name that cannot be
	CodeTagInvalid      Code = "TAG_INVALID"      // the caller's: a tag that cannot be
	CodeDigestInvalid   Code = "DIGEST_INVALID"   // the caller's: a digest that cannot be, or neither sha256 nor sha512
	CodeManifestInvalid Code = "MANIFEST_INVALID" // upstream's, or of who pushes: a manifest too large, contradictory or of no known form
	CodeManifestUnknown Code = "MANIFEST_UNKNOWN" // upstream has no such manifest
	CodeBlobUnknown     Code = "BLOB_UNKNOWN"     // upstream has no such blob
	CodeNameUnknown     Code = "NAME_UNKNOWN"     // upstream has no such repository, or there is no route to the registry
	CodeUnauthorized    Code = "UNAUTHORIZED"     // upstream wants a credential, or another one
	CodeDenied          Code = "DENIED"           // upstream knows the credential and refuses
	CodeTooMany         Code = "TOOMANYREQUESTS"  // upstream limits our rate; RetryAfter is set
	CodeUnavailable     Code = "UNAVAILABLE"      // upstream is not reachable, failed, or sent what cannot be right
	CodeTimeout         Code = "TIMEOUT"          // upstream did not answer in time
	CodeIncomplete      Code = "INCOMPLETE"       // something that this needs is not here
	CodePinned          Code = "PINNED"           // the reference is pinned, so what was asked would break a promise
	CodeUnsupported     Code = "UNSUPPORTED"      // upstream or imagecache has no such operation

	// Of pushes; all are the caller's.
	CodeManifestBlobUnknown Code = "MANIFEST_BLOB_UNKNOWN" // a manifest names a blob that is not in its repository
	CodeUploadUnknown       Code = "BLOB_UPLOAD_UNKNOWN"   // there is no such upload
	CodeUploadInvalid       Code = "BLOB_UPLOAD_INVALID"   // another piece of the upload is being sent, or upstream can make nothing of what was
	CodeRange               Code = "RANGE_INVALID"         // a piece of an upload does not follow the last one
	CodeSizeInvalid         Code = "SIZE_INVALID"          // a piece of an upload is not as long as it was said to be

	CodeArchiveInvalid Code = "ARCHIVE_INVALID" // the caller's: what is to be imported is no archive of images, or not a true one
)

// Error is how this package says what went wrong; errors.As finds it. It
// holds no secret: no credential, no token, and no query of an address, which
// may be a signature.
type Error struct {
	Code       Code
	Reference  string        // what was asked for, as far as it was known
	Message    string        // one sentence for a person
	RetryAfter time.Duration // how long upstream wants to be left alone; 0: it did not say
	Err        error         // the cause, may be nil
	// Faults are what is wrong with parts of what was sent, where it is more than
	// one thing. At most a hundred.
	Faults []Fault
	// Answered is the status, a 4xx, by which upstream refused what a client wanted
	// to change there; 0 for every other error.
	Answered int
	// SignIn is the registry that a credential of the caller's own, sent to us,
	// would be shown to; "" where that changes nothing.
	SignIn string

	final  bool // asking again is of no use although Code alone would not say so
	single bool // it may be the trouble of one answer, and says little of upstream
}

func (e *Error) Error() string {
	parts := make([]string, 0, 3)
	for _, part := range []string{e.Reference, e.Message} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	if len(parts) == 0 {
		return string(e.Code)
	}
	return strings.Join(parts, ": ")
}

func (e *Error) Unwrap() error { return e.Err }

// Permanent reports whether the same question would get the same answer, so
// that asking again only costs.
func (e *Error) Permanent() bool {
	switch e.Code {
	case CodeTooMany, CodeUnavailable, CodeTimeout:
		return e.final
	}
	return true
}

// refuses reports whether upstream said no to the one who asked.
func (e *Error) refuses() bool { return e.Code == CodeUnauthorized || e.Code == CodeDenied }

// about returns e with the reference it concerns.
func (e *Error) about(reference string) *Error {
	about := *e
	about.Reference = reference
	return &about
}

// subject is what a request to an upstream is about: it chooses the code of a
// 404 and which rate limit a 429 belongs to.
type subject string

const (
	subjectManifest subject = "manifest"
	subjectHead     subject = "tag"
	subjectBlob     subject = "blob"
	subjectTags     subject = "list of tags"
)

func (s subject) unknown() Code {
	switch s {
	case subjectBlob:
		return CodeBlobUnknown
	case subjectTags:
		return CodeNameUnknown
	}
	return CodeManifestUnknown
}

// statusError turns an upstream's status that is not a success into an error.
// foreign says that the answer came from where the upstream redirected to: a
// refusal there is one of a signed address, not of our credential.
func statusError(s subject, status int, foreign bool, said string) *Error {
	e := &Error{Code: CodeUnavailable, Message: "upstream answered " + statusText(status)}
	switch {
	case foreign && (status == http.StatusUnauthorized || status == http.StatusForbidden):
		e.Message = "the storage that upstream redirected to answered " + statusText(status)
	case status == http.StatusUnauthorized:
		e.Code, e.Message = CodeUnauthorized, "upstream wants a credential with a right to this"
	case status == http.StatusForbidden, status == http.StatusUnavailableForLegalReasons:
		e.Code, e.Message = CodeDenied, "upstream refuses this"
	case status == http.StatusNotFound:
		e.Code, e.Message = s.unknown(), fmt.Sprintf("upstream has no such %s", s)
	case status == http.StatusTooManyRequests:
		e.Code, e.Message = CodeTooMany, "upstream limits our rate"
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout:
		e.Code = CodeTimeout
	case status < 500:
		e.final = true
	default:
		e.single = true
	}
	if said != "" {
		e.Message += " (" + said + ")"
	}
	return e
}

func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

// nobodyThere: no connection came about, which is no trouble of one answer.
func nobodyThere(cause error) bool {
	var op *net.OpError
	return errors.As(cause, &op) && op.Op == "dial"
}

// networkError tells a failure without an answer. The text of cause is kept
// only as far as it cannot hold an address with its query.
func networkError(cause error) *Error {
	var ours *Error
	if errors.As(cause, &ours) {
		own := *ours // it may have gone to several who asked together
		return &own
	}
	cause = withoutAddress(cause)
	var slow interface{ Timeout() bool }
	if errors.Is(cause, context.DeadlineExceeded) || (errors.As(cause, &slow) && slow.Timeout()) {
		return &Error{Code: CodeTimeout, Message: "upstream did not answer in time", Err: cause}
	}
	return &Error{Code: CodeUnavailable, Message: "upstream is not reachable", Err: cause, single: !nobodyThere(cause)}
}
