package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// statusClientGone is what the access log shows for a client that left before
// it was answered. Nothing is sent; the number is nginx's.
const statusClientGone = 499

// refusal is an error of HTTP itself, before any registry was asked.
type refusal struct {
	status  int
	code    string
	message string
	header  [2]string // one more header field, when the status demands one
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
	// errPushClosed: pushing is not for whoever reaches this address.
	errPushClosed = &refusal{status: http.StatusForbidden, code: string(registry.CodeDenied),
		message: "pushing to and deleting from this registry is closed: it listens beyond this machine, and no rule says who may"}
	// errManifestTooLarge: see maxManifest.
	errManifestTooLarge = &refusal{status: http.StatusRequestEntityTooLarge, code: string(registry.CodeManifestInvalid), message: "the manifest is larger than 4 MiB"}
	// errManyTags: see maxTags.
	errManyTags = &refusal{status: http.StatusRequestURITooLong, code: string(registry.CodeUnsupported), message: "a manifest gets at most 100 tags at once"}
	// errOnlyHere: what is mounted is mounted by who asks, on this machine.
	errOnlyHere = &refusal{status: http.StatusForbidden, code: string(registry.CodeDenied),
		message: "root filesystems are mounted on the daemon's own machine; ask there, over its unix socket"}
	// errContentRange: the header of a piece of an upload.
	errContentRange = &refusal{status: http.StatusRequestedRangeNotSatisfiable, code: string(registry.CodeRange), message: "Content-Range must have the form <first>-<last>"}
)

// isError reports whether a status is one of an error.
func isError(status int) bool { return status >= http.StatusBadRequest }

func errMethod(allow string) error {
	return &refusal{status: http.StatusMethodNotAllowed, code: string(registry.CodeUnsupported), message: "only " + allow + " is answered here", header: [2]string{"Allow", allow}}
}

// errBrokenBody: the client stopped in the middle of a body.
func errBrokenBody(err error) error {
	return &refusal{status: http.StatusBadRequest, code: "SIZE_INVALID", message: "the body broke off: " + err.Error()}
}

func errRequest(message string) error {
	return &refusal{status: http.StatusBadRequest, code: "REQUEST_INVALID", message: message}
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

	registry.CodeManifestBlobUnknown: http.StatusNotFound,
	registry.CodeUploadUnknown:       http.StatusNotFound,
	registry.CodeUploadBusy:          http.StatusConflict,
	registry.CodeRange:               http.StatusRequestedRangeNotSatisfiable,
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

// asPushed makes an invalid manifest the client's mistake: of what comes from
// upstream it is upstream's.
func asPushed(err error) error {
	var known *registry.Error
	if errors.As(err, &known) && known.Code == registry.CodeManifestInvalid {
		return &refusal{status: http.StatusBadRequest, code: string(known.Code), message: known.Message}
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
	Detail  string `json:"detail,omitempty"` // the reference it is about
}

// classify turns any error into an answer. It is the only place that does.
// What the registry says is meant for people; the text of any other error
// stays in the log, because it may tell of paths and addresses.
func classify(err error) failure {
	var known *registry.Error
	var refused *refusal
	var tooLarge *http.MaxBytesError
	var denied *denial
	var rootfs *RootfsError
	switch {
	case errors.As(err, &denied):
		return classifyDenial(denied)
	case errors.As(err, &refused):
		f := fail(refused.status, refused.code, refused.message)
		f.header = refused.header
		return f
	case errors.As(err, &rootfs):
		return fail(rootfsStatuses[rootfs.Fault], string(rootfs.Fault), rootfs.Error())
	case errors.As(err, &tooLarge):
		return fail(http.StatusRequestEntityTooLarge, "REQUEST_INVALID", "the request body is larger than "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes")
	case errors.As(err, &known):
		return classifyRegistry(known)
	case errors.As(err, new(*layerstore.RotError)):
		f := fail(http.StatusServiceUnavailable, string(registry.CodeUnavailable), "what was stored is damaged and has been taken away; ask again")
		f.retryAfter = time.Second
		return f
	case errors.As(err, new(*layerstore.DigestError)), errors.As(err, new(*layerstore.SizeError)):
		return fail(http.StatusBadGateway, string(registry.CodeUnavailable), "the upstream sent wrong bytes")
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
	f := fail(status, string(err.Code), err.Message)
	f.body.Errors[0].Detail = err.Reference
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
	if r.Context().Err() != nil {
		// Without an answer net/http would send a 200, to a client that has
		// only ended its own half of the connection.
		w.status = statusClientGone
		panic(http.ErrAbortHandler)
	}
	if f.status == http.StatusInternalServerError {
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
