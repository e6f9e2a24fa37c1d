package registry

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// alignEvery is how often it is tried to set roots on a file system that was
// mounted read-only: nothing is evicted there, and roots count from the moment
// on at which something can be.
const alignEvery = time.Second

// align makes the store's roots agree with rows at the start, or as soon as roots
// can be written.
func (r *Registry) align() error {
	err := r.alignNow()
	if !errors.Is(err, unix.EROFS) {
		return err
	}
	r.log.Warn("roots of pins and pushed images differ from their rows, and are put right when they can be written", "error", err)
	r.tasks.Go(r.alignLater)
	return nil
}

func (r *Registry) alignLater() {
	tick := time.NewTicker(alignEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		err := r.alignNow()
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EROFS) {
			r.log.Error("roots of pins and pushed images not put right", "error", err)
		}
	}
}

// alignNow keeps others from changing rows and roots meanwhile.
func (r *Registry) alignNow() error {
	return errors.Join(r.alignPins(), r.alignPushed())
}

func (r *Registry) alignPins() error {
	r.pinning.Lock()
	defer r.pinning.Unlock()
	return r.alignRoots()
}

func (r *Registry) alignPushed() error {
	r.pushing.Lock()
	defer r.pushing.Unlock()
	return r.alignHome()
}
