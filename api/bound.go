package api

import (
	"io"
	"net/http"
	"time"
)

// boundBody sees to it that nobody is waited for without end who announced a
// body: net/http reads what a handler left of one, so that a request which is
// refused at once would otherwise hold its connection for as long as the client
// likes. Handlers that take long bodies set deadlines of their own.
func boundBody(w http.ResponseWriter, r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	deadline := http.NewResponseController(w).SetReadDeadline
	deadline(time.Now().Add(readTimeout)) // a connection without deadlines (a test's) goes without
	r.Body = &boundedBody{r.Body, deadline}
}

// boundedBody lifts the deadline when all was read: one that passes while we
// work on what came would be taken for a client that has left.
type boundedBody struct {
	io.ReadCloser
	deadline func(time.Time) error
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.deadline(time.Time{})
	}
	return n, err
}
