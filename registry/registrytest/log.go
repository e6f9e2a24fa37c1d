package registrytest

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Request is one request in the log.
type Request struct {
	Host      string // "registry", "token" or "storage"
	Method    string
	Path      string
	Query     string
	Auth      string // "none", "basic", "bearer" or another scheme
	Range     string // the header
	UserAgent string

	bytes  atomic.Int64
	status atomic.Int64
}

// Bytes is how many bytes of a body were sent so far, those included that are
// being sent: no client has more.
func (r *Request) Bytes() int64 { return r.bytes.Load() }

// Status is the status that was answered, 0 before that.
func (r *Request) Status() int { return int(r.status.Load()) }

// logged writes each request into the log when it comes, and counts what goes out.
func (r *Registry) logged(host string, serve func(http.ResponseWriter, *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		noted := &Request{Host: host, Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery,
			Auth: authKind(req), Range: req.Header.Get("Range"), UserAgent: req.UserAgent()}
		r.mu.Lock()
		r.log = append(r.log, noted)
		release := r.release // whoever saw the request in the log can let it go on
		r.changed.Broadcast()
		r.mu.Unlock()
		serve(&countingWriter{ResponseWriter: w, noted: noted}, req.WithContext(context.WithValue(req.Context(), releaseKey{}, release)))
	})
}

// releaseKey is the key of the channel that is closed to let a request go on.
type releaseKey struct{}

func authKind(req *http.Request) string {
	scheme, _, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if scheme == "" {
		return "none"
	}
	return strings.ToLower(scheme)
}

type countingWriter struct {
	http.ResponseWriter
	noted *Request
}

func (w *countingWriter) WriteHeader(status int) {
	w.noted.status.CompareAndSwap(0, int64(status))
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.noted.status.CompareAndSwap(0, http.StatusOK)
	w.noted.bytes.Add(int64(len(p))) // before: who has read them all may count at once
	n, err := w.ResponseWriter.Write(p)
	w.noted.bytes.Add(int64(n - len(p)))
	return n, err
}

// Unwrap is for [http.ResponseController].
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Requests returns the log of all requests whose path matches, in the order
// they came. Method "" is any. Path is a regular expression.
func (r *Registry) Requests(method, path string) []*Request {
	fits := regexp.MustCompile(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*Request
	for _, noted := range r.log {
		if (method == "" || method == noted.Method) && fits.MatchString(noted.Path) {
			found = append(found, noted)
		}
	}
	return found
}

// Count is the number of requests as Requests finds them.
func (r *Registry) Count(method, path string) int { return len(r.Requests(method, path)) }

// Sent is how many bytes of bodies were sent to requests as Requests finds them.
func (r *Registry) Sent(method, path string) int64 {
	var sent int64
	for _, noted := range r.Requests(method, path) {
		sent += noted.Bytes()
	}
	return sent
}

// Wait returns when at least n requests as Requests finds them have come, and
// fails the test after a minute.
func (r *Registry) Wait(t testing.TB, method, path string, n int) {
	t.Helper()
	late := make(chan struct{})
	timer := time.AfterFunc(time.Minute, func() {
		close(late)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changed.Broadcast()
	})
	defer timer.Stop()
	for {
		r.mu.Lock()
		before := len(r.log)
		r.mu.Unlock()
		got := r.Count(method, path)
		if got >= n {
			return
		}
		select {
		case <-late:
			t.Fatalf("%d requests %s %s came, want %d", got, method, path, n)
		default:
		}
		r.mu.Lock()
		for len(r.log) == before && !closed(late) {
			r.changed.Wait()
		}
		r.mu.Unlock()
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ForgetRequests empties the log.
func (r *Registry) ForgetRequests() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = nil
}
