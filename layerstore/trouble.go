package layerstore

import (
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
)

// trouble tells the log once what the disk refuses, and once that it is over,
// however many blobs it concerns.
type trouble struct {
	log     *slog.Logger
	what    string // in the log: what the store cannot do
	healed  string // in the log: what it can do again
	present atomic.Bool

	mu     sync.Mutex // guards what follows
	causes map[string]bool
	least  int64 // bytes of the smallest blob that was refused
}

// met notes that a blob of size bytes was refused, 0 where that does not matter.
func (t *trouble) met(err error, size int64) {
	cause := causeOf(err)
	t.mu.Lock()
	if t.causes == nil {
		t.causes, t.least = map[string]bool{}, math.MaxInt64
	}
	told := t.causes[cause]
	t.causes[cause] = true
	t.least = min(t.least, max(size, 0))
	t.present.Store(true)
	t.mu.Unlock()
	if !told {
		t.log.Error(t.what, "error", err)
	}
}

// refuses reports whether a blob of size bytes would be refused, as far as one
// can know.
func (t *trouble) refuses(size int64) bool {
	if !t.present.Load() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.causes != nil && size >= t.least
}

// over notes that a blob of size bytes was kept. A disk that is full takes a
// small one now and then: it is over when one as large as what was refused is kept.
func (t *trouble) over(size int64) {
	if !t.present.Load() {
		return
	}
	t.mu.Lock()
	healed := t.causes != nil && size >= t.least
	if healed {
		t.causes = nil
		t.present.Store(false)
	}
	t.mu.Unlock()
	if healed {
		t.log.Info(t.healed)
	}
}

// causeOf is the kernel's word, which is the same for all blobs.
func causeOf(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}
