package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/registry"
)

// writeTimeout is how long a client may take to accept one piece of an
// answer. A piece is at most runSize bytes, so that a client at 50 kB/s makes
// it (4 MiB in 84 s), and one that has stopped reading is cut.
const writeTimeout = 2 * time.Minute

// record is the ResponseWriter of one request and what became of it: what the
// access line and the metrics tell. It hides neither io.ReaderFrom nor, by
// Unwrap, what http.ResponseController reaches.
type record struct {
	http.ResponseWriter
	server  *Server
	request *http.Request
	start   time.Time
	ns      string // the ns parameter, "" when there is none
	kind    kind
	status  int   // 0 until the header is written
	bytes   int64 // of the body, as handed to the connection
	caller  access.Caller
	shown   bool // it has shown a credential of ours, be it nobody's
	outcome outcome
	reason  string   // why it was refused, cut or answered stale
	done    bool     // the handler returned, it did not panic
	failed  bool     // an error was answered, be it as the last line of a stream
	denied  bool     // because of who asked
	remote  bool     // the administration was asked from beyond this machine's own address
	what    []string // what it is about, see concerns

	values [valuesMost]string // of the header, see put
	used   int                // of them
}

// valuesMost is more than the fields of an answer that are not shared by all.
const valuesMost = 6

// put sets a field of the header; its name is in the canonical form. The value
// is kept in the record, which saves an allocation for each field.
func (w *record) put(field, value string) {
	if w.used == len(w.values) {
		w.Header()[field] = []string{value}
		return
	}
	w.values[w.used] = value
	w.used++
	w.Header()[field] = w.values[w.used-1 : w.used : w.used]
}

// Unwrap is for http.ResponseController.
func (w *record) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *record) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		w.renew()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *record) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom forwards, so that the kernel can send a file.
func (w *record) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := io.Copy(w.ResponseWriter, src) // which uses the inner ReadFrom
	w.bytes += n
	return n, err
}

// renew gives the client another writeTimeout to accept what comes next. A
// connection without deadlines (a test's) goes without.
func (w *record) renew() {
	if d, ok := w.ResponseWriter.(interface{ SetWriteDeadline(time.Time) error }); ok {
		d.SetWriteDeadline(time.Now().Add(writeTimeout))
		return
	}
	http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
}

// answered notes how the registry came by its answer and tells the client.
func (w *record) answered(answer registry.Answer) {
	w.outcome = outcomeOf(answer)
	w.reason = answer.Detail
	w.describe(answer)
}

// bypassed notes that an answer went past the store.
func (w *record) bypassed(why error) {
	w.outcome = outcomeBypass
	if w.reason == "" {
		w.reason = why.Error()
	}
}

// refuse notes an error. The outcome of an answer that had begun stays.
func (w *record) refuse(f failure, err error) {
	if w.status == 0 {
		w.outcome = outcomeRefused
	}
	told := f.body.Errors[0]
	w.failed, w.denied = true, isDenial(err)
	switch {
	case f.status == statusClientGone:
		w.reason = told.Message
	case f.status < http.StatusInternalServerError:
		w.reason = told.Code
	default:
		w.reason = err.Error() // which holds no secret, see registry.Error
	}
}

// twoNamespaces reports whether a query names two: which one is meant could be
// read in two ways.
func twoNamespaces(query string) bool {
	return strings.Count("&"+query, "&ns=") > 1
}

// namespace finds the ns parameter without parsing the whole query: it is
// wanted for every request.
func namespace(query string) string {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if value, ok := strings.CutPrefix(pair, "ns="); ok {
			if ns, err := url.QueryUnescape(value); err == nil {
				return ns
			}
			return value // ill-formed, and refused as the name of a registry
		}
	}
	return ""
}

// sent notes that the client left while it was written to, which is no error
// of ours. net/http closes the connection of an answer that is too short.
func (w *record) sent(err error) error {
	if err != nil {
		w.reason = clientLeft
	}
	return nil
}

// clientLeft is the reason of an answer that nobody waited for.
const clientLeft = "the client left"

// handler answers one request or returns why it cannot.
type handler func(w *record, r *http.Request) error

// handle makes an http.Handler of a handler: it records, and it turns an
// error into an answer.
func (s *Server) handle(k kind, h handler) http.HandlerFunc {
	return func(inner http.ResponseWriter, r *http.Request) {
		w := &record{ResponseWriter: inner, server: s, request: r, start: s.now(), ns: namespace(r.URL.RawQuery), kind: k}
		defer w.finish() // also when a body is cut, which is a panic
		boundBody(inner, r)
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
		w.done = true
	}
}

// finish counts the request and writes its access line.
func (w *record) finish() {
	if w.status == 0 {
		w.status = http.StatusOK // net/http's own default
		if !w.done {
			w.status, w.reason = http.StatusInternalServerError, "panic"
		}
	}
	end := w.server.now()
	elapsed := end.Sub(w.start)
	w.server.metrics.observe(w, elapsed)
	ctx := context.Background() // that of the request may have ended
	w.audit(ctx)
	if log := w.server.access; log != nil && log.Enabled(ctx, slog.LevelInfo) {
		w.line(log.Handler(), end, elapsed)
	}
}

// withoutUser takes user and password out of a path in which somebody wrote
// them before a host. It is refused as a name, but it was sent.
func withoutUser(path string) string {
	if !strings.Contains(path, "@") {
		return path
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if at := strings.LastIndexByte(part, '@'); at >= 0 {
			parts[i] = "…" + part[at:]
		}
	}
	return strings.Join(parts, "/")
}

// line writes the access line. Of the query only ns is shown, and of the
// header only the user agent: the rest may hold what is secret. It goes past the
// Logger, which would look up for each line which line of code wrote it.
func (w *record) line(log slog.Handler, end time.Time, elapsed time.Duration) {
	r := w.request
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs, slog.String("method", r.Method), slog.String("path", withoutUser(r.URL.Path)))
	if w.ns != "" {
		attrs = append(attrs, slog.String("ns", withoutUser(w.ns)))
	}
	attrs = append(attrs, slog.Int("status", w.status), slog.Int64("bytes", w.bytes), slog.Duration("duration", elapsed))
	if w.outcome != outcomeNone {
		attrs = append(attrs, slog.String("outcome", w.outcome.String()))
	}
	if w.reason != "" {
		attrs = append(attrs, slog.String("reason", w.reason))
	}
	if w.caller.Known() {
		attrs = append(attrs, slog.String("caller", w.caller.Name))
	}
	attrs = append(attrs, slog.String("client", r.RemoteAddr), slog.String("agent", r.UserAgent()))
	line := slog.NewRecord(end, slog.LevelInfo, "request", 0)
	line.AddAttrs(attrs...)
	_ = log.Handle(context.Background(), line) // an error of the log has nowhere to be reported
}
