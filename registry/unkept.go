package registry

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// unkeptMost bounds what waits to be kept, in bytes of manifests: some
	// thousand of the usual size. What finds no room is fetched again one day.
	unkeptMost = 8 << 20
	// keepAgainEvery is how often it is tried: a disk that is full or broken is
	// not healed sooner.
	keepAgainEvery = 2 * time.Second
)

// unkept are manifests and tags that were answered, and are answered from
// memory, though they could not be made durable. Nobody asks upstream for them
// again, so they are kept when the disk allows it.
type unkept struct {
	some chan struct{} // one token when there is work

	mu    sync.Mutex // guards what follows
	work  map[string]unkeptWork
	bytes int64
}

type unkeptWork struct {
	size int64 // bytes
	keep func() error
}

// add takes work that failed; what is there under the same key is replaced.
func (u *unkept) add(key string, size int64, keep func() error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(key)
	if u.bytes+size > unkeptMost {
		return
	}
	if u.work == nil {
		u.work = map[string]unkeptWork{}
	}
	u.work[key] = unkeptWork{size, keep}
	u.bytes += size
	nudge(u.some)
}

// drop forgets work. u.mu is held.
func (u *unkept) drop(key string) {
	u.bytes -= u.work[key].size
	delete(u.work, key)
}

// take hands over all work.
func (u *unkept) take() map[string]unkeptWork {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := maps.Clone(u.work)
	u.work, u.bytes = nil, 0
	return taken
}

// keepOrLater makes something durable, now or when the disk allows it.
func (r *Registry) keepOrLater(key string, size int64, keep func() error) {
	err := keep()
	if err == nil {
		nudge(r.listed)
		return
	}
	if r.ctx.Err() != nil {
		return
	}
	var storage *layerstore.StorageError
	if !errors.As(err, &storage) { // the store tells of its own troubles, once
		r.log.Error("answered but not kept, tried again", "what", key, "error", err)
	}
	r.unkept.add(key, size, keep)
}

// keepLater tries again what could not be kept, until the registry closes.
func (r *Registry) keepLater() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.unkept.some:
		}
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(keepAgainEvery):
		}
		for key, w := range r.unkept.take() {
			if err := w.keep(); err != nil {
				r.unkept.add(key, w.size, w.keep)
				continue
			}
			nudge(r.listed)
		}
	}
}
