package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/imagecache/imagecache/api/access"
)

// changing are the methods by which something is changed.
var changing = map[string]bool{http.MethodPost: true, http.MethodPut: true, http.MethodPatch: true, http.MethodDelete: true}

// auditVerbs say what a request to the administration changes, or takes away
// with it, by method and path. What is not here does neither.
var auditVerbs = map[string]string{
	"DELETE /api/v1/images":      "rm",
	"POST /api/v1/pins":          "pin",
	"DELETE /api/v1/pins":        "unpin",
	"POST /api/v1/pins/apply":    "apply",
	"POST /api/v1/pins/rollback": "rollback",
	"POST /api/v1/pull":          "pull",
	"POST /api/v1/gc":            "gc",
	"POST /api/v1/scrub":         "scrub",
	"POST /api/v1/import":        "import",
	"POST /api/v1/export":        "export",
	"POST /api/v1/rootfs":        "mount",
	"DELETE /api/v1/rootfs":      "umount",
}

// concerns notes what a request is about, for the audit. What is in the query
// is found there.
func (w *record) concerns(what string) { w.what = append(w.what, what) }

// audit writes the line about a change, or about a caller that was refused.
// Everything else is told by the access line alone.
func (w *record) audit(ctx context.Context) {
	verb, changes := w.auditVerb()
	if !changes && !w.denied || w.kind == kindBase { // docker asks there whether it has to sign in
		return
	}
	outcome := "done"
	switch {
	case w.denied:
		outcome = "refused"
	case w.failed || isError(w.status) || !w.done:
		outcome = "failed"
	}
	attrs := []slog.Attr{slog.String("caller", w.auditCaller()), slog.String("client", w.request.RemoteAddr),
		slog.String("verb", verb), slog.String("what", w.auditWhat()), slog.String("outcome", outcome)}
	if w.reason != "" && outcome != "done" {
		attrs = append(attrs, slog.String("reason", w.reason))
	}
	w.server.log.LogAttrs(ctx, slog.LevelInfo, "audit", attrs...)
}

// auditVerb is what a request does, and whether that is a change.
func (w *record) auditVerb() (verb string, changes bool) {
	r := w.request
	if w.kind == kindAdmin {
		verb = auditVerbs[r.Method+" "+r.URL.Path]
		if verb == "" {
			return "admin", false
		}
		return verb, true
	}
	if r.URL.Path == metricsPath {
		return string(access.Metrics), false
	}
	if !strings.HasPrefix(r.URL.Path, "/v2/") {
		return "sign in", false
	}
	if w.kind == kindUpload && r.Method == http.MethodPatch {
		return "push", false // a piece; the end of the upload is told
	}
	return string(verbOf(r, w.kind)), changing[r.Method]
}

// auditCaller is who asked. Who reaches the administration of this machine is
// the operator, and which user of it is what the socket says.
func (w *record) auditCaller() string {
	switch {
	case w.caller.Name != "":
		return w.caller.Name
	case w.kind == kindAdmin && !w.remote:
		return localCaller(w.request.Context())
	}
	return "anonymous"
}

// auditWhat is what a request is about: a reference, a path, a key.
func (w *record) auditWhat() string {
	query := w.request.URL.Query()
	what := append([]string{}, query["key"]...)
	for _, reference := range slices.Concat(query["ref"], query["name"]) {
		what = append(what, withoutLogin(reference))
	}
	if len(what) == 0 {
		what = w.what
	}
	if len(what) > 0 {
		return strings.Join(what, " ")
	}
	return withoutUser(w.request.URL.Path)
}

// withoutLogin takes away what somebody wrote before the host of a reference, as
// in a url: perhaps a password. It is refused as a reference, but it was sent. A
// digest behind an @ stays.
func withoutLogin(reference string) string {
	at := strings.LastIndexByte(reference, '@')
	if at < 0 {
		return reference
	}
	if rest := reference[at+1:]; strings.HasPrefix(rest, "sha256:") || strings.HasPrefix(rest, "sha512:") {
		return withoutLogin(reference[:at]) + reference[at:]
	}
	return "…" + reference[at:]
}

// isDenial reports whether a caller was refused for who it is, or for where it
// asks from.
func isDenial(err error) bool {
	return errors.As(err, new(*denial)) || slices.ContainsFunc([]error{errPushClosed, errOnlyHere, errCrossOrigin, errForeignName, errForeignPage},
		func(refused error) bool { return errors.Is(err, refused) })
}
