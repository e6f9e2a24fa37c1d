package registry

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/imagecache/imagecache/layerstore"
)

// goneAfter is how long a client that sends a piece must have sent nothing for
// another request to go on in its place. A connection that died without a word is
// otherwise found out by the deadline of its reads, a minute later; clients that
// go on with an upload (regctl) try for some six seconds; and one that is alive is
// not silent for so long, be it slow.
const goneAfter = 5 * time.Second

// sendings are the requests that send a piece of an upload now, by the names of
// their ingests.
type sendings struct {
	mu  sync.Mutex // guards all
	all map[string]*sending
}

// sending is the body of one of them. It knows for how long its client has been
// silent.
type sending struct {
	name   string
	ingest *layerstore.Ingest
	body   io.Reader
	now    func() time.Time
	// waits is since when the client is waited for, in Unix nanoseconds; 0 while
	// it is not the client that is.
	waits atomic.Int64
}

func (s *sending) Read(p []byte) (int, error) {
	s.waits.Store(s.now().UnixNano())
	defer s.waits.Store(0)
	return s.body.Read(p)
}

// silent reports whether the client may be taken for gone.
func (s *sending) silent(now time.Time) bool {
	since := s.waits.Load()
	return since != 0 && now.Sub(time.Unix(0, since)) >= goneAfter
}

func (t *sendings) begin(name string, i *layerstore.Ingest, body io.Reader, now func() time.Time) *sending {
	s := &sending{name: name, ingest: i, body: body, now: now}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[string]*sending{}
	}
	t.all[name] = s
	return s
}

func (t *sendings) end(s *sending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all[s.name] == s {
		delete(t.all, s.name)
	}
}

// displace takes an upload from a client that has fallen silent. What it has sent
// stays. It reports whether the upload may be opened now.
func (t *sendings) displace(name string, now time.Time) bool {
	t.mu.Lock()
	s := t.all[name]
	t.mu.Unlock()
	return s != nil && s.silent(now) && s.ingest.Close() == nil
}
