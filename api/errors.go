package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// statusClientGone is what the access log shows for a client that left before
// it was answered. Nothing is sent; the number is nginx's.
const statusClientGone = 499

// fullRest is when who met a full disk may come again: images that were not used
// for long are being evicted meanwhile.
const fullRest = 5 * time.Second

// refusal is an error of HTTP itself, before any registry was asked.
type refusal struct {
	status  int
	code    string
	message string
	header  [2]string // one more header field, when the status demands one
	stays   bool      // the client is there to be told, though net/http ended the context of its request
}

func (e *refusal) Error() string { return e.message }

var (
	// errNoEndpoint: no endpoint has a path of this form.
	errNoEndpoint = &refusal{status: http.StatusNotFound, code: string(registry.CodeUnsupported), message: "there is nothing at this path"}
	// errTwoNamespaces: ns is given more than once.
	errTwoNamespaces = &refusal{status: http.StatusBadRequest, code: string(registry.CodeNameInvalid), message: "ns is given more than once"}
	// errRange: no byte of the content is in the ranges that were asked for.
	errRange = &refusal{status: http.StatusRequestedRangeNotSatisfiable, code: "SIZE_INVALID", message: "the range lies outside of the content"}
	// errDraining: the daemon has been told to stop.
	errDraining = &refusal{status: http.StatusServiceUnavailable, code: string(registry.CodeUnavailable), message: "draining"}
	// errCrossOrigin: a web page of somebody else's asked.
	errCrossOrigin = &refusal{status: http.StatusForbidden, code: string(registry.CodeDenied), message: "requests of web pages from elsewhere are not answered"}
	// errForeignName: see ownNames.
	errForeignName = &refusal{status: http.StatusForbidden, code: string(registry.CodeDenied),
		message: "administration is asked by an address or as localhost, not by another name: that is how web pages from elsewhere ask"}
	// errForeignPage: see ownBrowsers.
	errForeignPage = &refusal{status: http.StatusForbidden, code: string(registry.CodeDenied),
		message: "browsers are answered by an address or as localhost, not by another name, where no rule says who may: that is how web pages from elsewhere ask"}
	// errPushClosed: pushing is not for whoever reaches this address.
	errPushClosed = &refusal{status: http.StatusForbidden, code: string(registry.CodeDenied),
		message: "pushing to and deleting from this registry is closed: it listens beyond this machine, and no rule says who may"}
	// errManifestTooLarge: see maxManifest.
	errManifestTooLarge = &refusal{status: http.StatusRequestEntityTooLarge, code: string(registry.CodeManifestInvalid), message: "the manifest is larger than 4 MiB"}
	// errManyTags: see maxTags.
	errManyTags = &refusal{status: http.StatusRequestURITooLong, code: string(registry.CodeUnsupported), message: "a manifest gets at most 100 tags at once"}
	// errOnlyHere: what is mounted is mounted by who asks, on this machine.
	errOnlyHere = &refusal{status: http.StatusForbidden, code: string(registry.CodeUnsupported),
		message: "root filesystems are mounted on the daemon's own machine; ask there, over its unix socket"}
	// errPieceLength: a piece of an upload contradicts itself.
	errPieceLength = &refusal{status: http.StatusBadRequest, code: string(registry.CodeSizeInvalid), message: "Content-Length is not the length of Content-Range; nothing was read"}
	// errContentRange: the header of a piece of an upload.
	errContentRange = &refusal{status: http.StatusRequestedRangeNotSatisfiable, code: string(registry.CodeRange), message: "Content-Range must have the form <first>-<last>"}
)

// isError reports whether a status is one of an error.
func isError(status int) bool { return status >= http.StatusBadRequest }

func errMethod(allow string) error {
	return &refusal{status: http.StatusMethodNotAllowed, code: string(registry.CodeUnsupported), message: "only " + allow + " is answered here", header: [2]string{"Allow", allow}}
}

// errNoHome: a push to a name that is not ours to keep, mostly one without a
// registry, which means Docker Hub. Clients show nothing but the message.
func errNoHome(name string) error {
	return &refusal{status: http.StatusMethodNotAllowed, code: string(registry.CodeUnsupported), header: [2]string{"Allow", readMethods},
		message: name + " is an upstream, or not known here: images are pushed to names below " + registry.LocalHome + "/, as in " +
			registry.LocalHome + `/team/app, or to upstreams whose settings have push = "through"`}
}

// errBrokenBody: the client stopped in the middle of a body.
func errBrokenBody(err error) error {
	return &refusal{status: http.StatusBadRequest, code: "SIZE_INVALID", message: "the body broke off: " + err.Error()}
}

// errStalled: nothing of a body came for so long.
func errStalled(idle time.Duration, became string) error {
	return &refusal{status: http.StatusRequestTimeout, code: "SIZE_INVALID", message: fmt.Sprintf("the body broke off: nothing came for %s; %s", idle, became), stays: true}
}

// brokenForm: the body of a question for a token did not come whole.
func brokenForm(err error) error {
	if errors.As(err, new(*http.MaxBytesError)) {
		return err
	}
	return errBrokenBody(err)
}

func errRequest(message string) error {
	return &refusal{status: http.StatusBadRequest, code: "REQUEST_INVALID", message: message}
}

// errBody says what is wrong with a JSON body, without the names of our types.
func errBody(err error) error {
	var field *json.UnmarshalTypeError
	switch {
	case err == nil, errors.As(err, new(*http.MaxBytesError)):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errBrokenBody(errors.New("it did not come in time"))
	case errors.Is(err, io.EOF):
		return errRequest("the request body is empty")
	case errors.As(err, &field) && field.Field == "":
		return errRequest("the request body is not what is expected: there is a JSON " + field.Value)
	case errors.As(err, &field):
		return errRequest("the request body is not what is expected: " + field.Field + " cannot be a JSON " + field.Value)
	}
	return errRequest("the request body is not what is expected: " + strings.TrimPrefix(err.Error(), "json: "))
}

func errPage() error {
	return &refusal{status: http.StatusBadRequest, code: "PAGINATION_NUMBER_INVALID", message: "n must be a number that is not negative"}
}

func invalidName(path, why string) error {
	return &registry.Error{Code: registry.CodeNameInvalid, Reference: strconv.Quote(path), Message: "not a path of a repository: " + why}
}

// statuses says with which status each of the registry's codes is answered. The
// codes go into the body as they are. MANIFEST_INVALID is an upstream that
// sent what is no manifest: the request was right.
var statuses = map[registry.Code]int{
	registry.CodeNameInvalid:     http.StatusBadRequest,
	registry.CodeTagInvalid:      http.StatusBadRequest,
	registry.CodeDigestInvalid:   http.StatusBadRequest,
	registry.CodeManifestInvalid: http.StatusBadGateway,
	registry.CodeManifestUnknown: http.StatusNotFound,
	registry.CodeBlobUnknown:     http.StatusNotFound,
	registry.CodeNameUnknown:     http.StatusNotFound,
	registry.CodeUnauthorized:    http.StatusUnauthorized,
	registry.CodeDenied:          http.StatusForbidden,
	registry.CodeTooMany:         http.StatusTooManyRequests,
	registry.CodeUnavailable:     http.StatusBadGateway,
	registry.CodeTimeout:         http.StatusGatewayTimeout,
	registry.CodePinned:          http.StatusConflict,
	registry.CodeIncomplete:      http.StatusConflict,
	registry.CodeUnsupported:     http.StatusMethodNotAllowed,

	registry.CodeManifestBlobUnknown: http.StatusBadRequest,
	registry.CodeUploadUnknown:       http.StatusNotFound,
	registry.CodeUploadInvalid:       http.StatusConflict,
	registry.CodeRange:               http.StatusRequestedRangeNotSatisfiable,
	registry.CodeSizeInvalid:         http.StatusBadRequest,
	registry.CodeArchiveInvalid:      http.StatusBadRequest,
}

// rootfsStatuses does the same for root filesystems, of which only the
// administration hears.
var rootfsStatuses = map[RootfsFault]int{
	RootfsUnable:  http.StatusServiceUnavailable,
	RootfsExists:  http.StatusConflict,
	RootfsBusy:    http.StatusConflict,
	RootfsUnknown: http.StatusNotFound,
	RootfsInvalid: http.StatusUnprocessableEntity,
}

// invalidPush is an invalid manifest that a client sent: of what comes from
// upstream it is upstream's mistake.
type invalidPush struct{ cause *registry.Error }

func (e *invalidPush) Error() string { return e.cause.Error() }
func (e *invalidPush) Unwrap() error { return e.cause }

func asPushed(err error) error {
	var known *registry.Error
	if errors.As(err, &known) && known.Code == registry.CodeManifestInvalid {
		return &invalidPush{known}
	}
	return err
}

// failure is an error as the client sees it.
type failure struct {
	status     int
	body       errorBody
	retryAfter time.Duration
	header     [2]string
}

// errorBody is the JSON of distribution-spec, "Error Codes".
type errorBody struct {
	Errors []errorDetail `json:"errors"`
}

type errorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  string `json:"detail,omitempty"` // the reference or digest it is about
}

// classify turns any error into an answer. It is the only place that does.
// What the registry says is meant for people; the text of any other error
// stays in the log, because it may tell of paths and addresses.
func classify(err error) failure {
	var known *registry.Error
	var refused *refusal
	var pushed *invalidPush
	var tooLarge *http.MaxBytesError
	var denied *denial
	var rootfs *RootfsError
	var scope *access.ScopeError
	switch {
	case errors.As(err, &denied):
		return classifyDenial(denied)
	case errors.As(err, &refused):
		f := fail(refused.status, refused.code, refused.message)
		f.header = refused.header
		return f
	case errors.As(err, &rootfs):
		return fail(rootfsStatuses[rootfs.Fault], string(rootfs.Fault), rootfs.Error())
	case errors.As(err, &scope):
		return fail(http.StatusBadRequest, "REQUEST_INVALID", scope.Error())
	case errors.As(err, &tooLarge):
		return fail(http.StatusRequestEntityTooLarge, "REQUEST_INVALID", "the request body is larger than "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes")
	case errors.As(err, &pushed):
		f := classifyRegistry(pushed.cause)
		if pushed.cause.Answered == 0 {
			f.status = http.StatusBadRequest
		}
		return f
	case errors.As(err, &known):
		return classifyRegistry(known)
	case errors.As(err, new(*layerstore.RotError)):
		f := fail(http.StatusServiceUnavailable, string(registry.CodeUnavailable), "what was stored is damaged and has been taken away; ask again")
		f.retryAfter = time.Second
		return f
	case errors.As(err, new(*layerstore.DigestError)), errors.As(err, new(*layerstore.SizeError)):
		return fail(http.StatusBadGateway, string(registry.CodeUnavailable), "the upstream sent wrong bytes")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		f := fail(http.StatusInsufficientStorage, string(registry.CodeUnavailable), "the disk of imagecache is full; of an upload is kept what came: go on with it when there is room")
		f.retryAfter = fullRest
		return f
	case errors.Is(err, layerstore.ErrNotFound):
		return fail(http.StatusNotFound, string(registry.CodeBlobUnknown), "not in the cache")
	case errors.Is(err, layerstore.ErrClosed):
		return fail(http.StatusServiceUnavailable, string(registry.CodeUnavailable), "the cache is shutting down")
	case errors.Is(err, context.Canceled):
		return fail(statusClientGone, "", clientLeft)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, layerstore.ErrStalled):
		return fail(http.StatusGatewayTimeout, string(registry.CodeTimeout), "the upstream did not answer in time")
	}
	return fail(http.StatusInternalServerError, "UNKNOWN", "internal error, see the log of imagecache")
}

// classifyDenial tells who may not, and not more than how to sign in.
func classifyDenial(d *denial) failure {
	switch {
	case d.refused != nil && d.refused.Wait > 0:
		f := fail(http.StatusTooManyRequests, string(registry.CodeTooMany), d.refused.Message)
		f.retryAfter = d.refused.Wait
		return f
	case d.refused != nil && d.refused.Unavailable:
		f := fail(http.StatusServiceUnavailable, string(registry.CodeUnavailable), d.refused.Message)
		f.retryAfter = 10 * time.Second // an issuer is left alone for half of that
		return f
	case d.challenge == "":
		return fail(http.StatusForbidden, string(registry.CodeDenied), d.Error())
	}
	f := fail(http.StatusUnauthorized, string(registry.CodeUnauthorized), "sign in: who is not known may not do this")
	if d.refused != nil {
		f.body.Errors[0].Message = d.refused.Message
	}
	f.header = [2]string{"WWW-Authenticate", d.challenge}
	return f
}

func classifyRegistry(err *registry.Error) failure {
	status, ok := statuses[err.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	if err.Answered != 0 {
		status = err.Answered
	}
	f := fail(status, string(err.Code), err.Message)
	f.body.Errors[0].Detail = err.Reference
	if len(err.Faults) > 0 {
		f.body.Errors = nil
	}
	for _, fault := range err.Faults {
		f.body.Errors = append(f.body.Errors, errorDetail{Code: string(err.Code), Message: fault.Message, Detail: fault.Digest.String()})
	}
	f.retryAfter = err.RetryAfter
	if status == http.StatusUnauthorized {
		f.header = challenge(err)
	}
	return f
}

// explain tells an administrator everything about what is not the request's
// fault: whoever reaches the admin address may read the log as well.
func (f *failure) explain(err error) {
	if f.status >= http.StatusInternalServerError {
		f.body.Errors[0].Message = err.Error()
	}
}

// challenge is what RFC 9110, section 15.5.2, demands of a 401. Where a
// credential of the caller's own would be shown to the upstream, it is asked
// for. Where the upstream refused ours, no secret sent to us would change that,
// and a Basic or Bearer challenge would make containerd send us its user's. So
// the scheme is one of our own then, which every client passes over:
// containerd goes on to its next host, the others report the error.
func challenge(err *registry.Error) [2]string {
	value := "Upstream realm=" + strconv.QuoteToASCII(strings.Trim(err.Reference, `"`))
	if err.SignIn != "" {
		value = signIn(err.SignIn)
	}
	return [2]string{"WWW-Authenticate", value}
}

func fail(status int, code, message string) failure {
	return failure{status: status, body: errorBody{Errors: []errorDetail{{Code: code, Message: message}}}}
}

// specified are the codes of distribution-spec, "Error Codes", that clients are
// sent in place of those that only the administration knows: a 4xx has no others.
var specified = map[string]string{
	string(registry.CodeRange):      "BLOB_UPLOAD_INVALID",
	string(registry.CodePinned):     string(registry.CodeDenied),
	string(registry.CodeIncomplete): string(registry.CodeDenied),
	"PAGINATION_NUMBER_INVALID":     string(registry.CodeUnsupported),
}

// fail answers a request with an error, or cuts the answer when it has begun:
// the panic makes net/http close the connection, so that no client takes
// what it has for the whole. A client that has left is told nothing.
func (s *Server) fail(w *record, r *http.Request, err error) {
	f := classify(err)
	if w.kind == kindAdmin {
		f.explain(err)
	} else if code, ok := specified[f.body.Errors[0].Code]; ok {
		f.body.Errors[0].Code = code
	}
	w.refuse(f, err)
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	var refused *refusal
	if r.Context().Err() != nil && !(errors.As(err, &refused) && refused.stays) {
		// Without an answer net/http would send a 200, to a client that has
		// only ended its own half of the connection.
		w.status = statusClientGone
		panic(http.ErrAbortHandler)
	}
	if f.status == http.StatusInternalServerError || f.status == http.StatusInsufficientStorage {
		s.log.LogAttrs(r.Context(), slog.LevelError, "request failed", slog.String("path", withoutUser(r.URL.Path)), slog.Any("error", err))
	}
	if f.status == statusClientGone { // canceled, though not by this client: the daemon is going down
		f = classify(layerstore.ErrClosed)
	}
	f.write(w, r)
}

// write sends the error. The header fields of the answer that was meant are
// taken back, but for the length of the content that a 416 tells.
func (f failure) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for _, field := range []string{"Accept-Ranges", "Age", "Cache-Status", "Content-Length", "Docker-Content-Digest", "Etag"} {
		h.Del(field)
	}
	if f.status != http.StatusRequestedRangeNotSatisfiable {
		h.Del("Content-Range")
	}
	if f.header[0] != "" {
		h.Set(f.header[0], f.header[1])
	}
	if f.retryAfter > 0 { // whole seconds, rounded up so that nobody comes early
		h.Set("Retry-After", strconv.FormatInt(int64((f.retryAfter+time.Second-1)/time.Second), 10))
	}
	body, _ := json.Marshal(f.body) // strings only: cannot fail
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(f.status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}
