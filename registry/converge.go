package registry

import (
	"errors"
	"time"
)

// converge makes what is here agree with what is pinned: every convergeEvery,
// and when something changed, until the registry closes. What failed just now
// is tried again at once, and then more and more seldom.
func (r *Registry) converge() {
	r.tasks.Go(r.watch)
	if err := r.forgetHistory(); err != nil {
		r.log.Error("old histories of pins not dropped", "error", err)
	}
	for {
		timer := time.NewTimer(r.completePins())
		select {
		case <-r.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-r.lacks:
			timer.Stop()
		}
	}
}

// completePins begins to fetch what lacks of pins that are due, and returns
// how long nothing will be due. Pins of one registry are fetched one after
// the other, those of different ones side by side: a registry that hangs holds
// up nobody else's.
func (r *Registry) completePins() (wait time.Duration) {
	rows := r.pinRows()
	r.desired.forget(rows)
	wait = convergeEvery
	due := map[string][]string{} // keys by registry
	for key, row := range rows {
		if h, err := r.holdingOf(row); err == nil && h.complete() {
			r.settle(key, row)
			continue
		}
		registry, in := r.dueIn(key, row)
		if in > 0 {
			wait = min(wait, in)
			continue
		}
		due[registry] = append(due[registry], key)
	}
	for registry, keys := range due {
		r.completeAt(registry, keys)
	}
	r.refreshDrill()
	return max(wait, time.Second/10)
}

// settle notes that a pin is complete, by whatever way that came.
func (r *Registry) settle(key string, row pinRow) {
	if known := r.desired.known(key, row.Digest); known.digest == "" || known.failures > 0 {
		r.desired.arrived(key, row.Digest, r.now())
	}
}

// dueIn tells in how long a pin is to be tried.
func (r *Registry) dueIn(key string, row pinRow) (registry string, in time.Duration) {
	ref, err := ParseReference(key)
	if err != nil {
		return "", convergeEvery // the row cannot be meant for this version
	}
	r.desired.mu.Lock()
	defer r.desired.mu.Unlock()
	if r.desired.inHand[key] > 0 || r.desired.busy[ref.Registry] {
		return ref.Registry, convergeEvery // who has it in hand says when it is done
	}
	e := r.desired.of[key]
	if e == nil || e.digest != row.Digest || e.next.IsZero() {
		return ref.Registry, 0
	}
	in = e.next.Sub(r.now())
	if in > 2*lastTry {
		return ref.Registry, 0 // the clock was set back
	}
	return ref.Registry, in
}

// completeAt completes pins of one registry in the background.
func (r *Registry) completeAt(registry string, keys []string) {
	r.desired.setBusy(registry, true)
	r.background(func() {
		defer nudge(r.lacks)
		defer r.desired.setBusy(registry, false)
		for _, key := range keys {
			if row, ok := r.pinRow(key); ok && r.ctx.Err() == nil {
				r.tryPin(key, row)
			}
		}
	})
}

func (d *desired) setBusy(registry string, busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if busy {
		d.busy[registry] = true
		return
	}
	delete(d.busy, registry)
}

func (r *Registry) pinRow(key string) (pinRow, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	row, ok := r.pins[key]
	return row, ok
}

func (r *Registry) tryPin(key string, row pinRow) {
	r.desired.begun(key, row.Digest, r.now())
	err := r.completePin(key, row)
	if r.ctx.Err() != nil {
		return
	}
	r.desired.ended(key, row.Digest, err, r.now())
	if err != nil {
		r.log.Warn("pin is incomplete", "reference", key, "digest", row.Digest, "error", err)
		return
	}
	r.log.Info("pin is complete", "reference", key, "digest", row.Digest)
}

func (r *Registry) completePin(key string, row pinRow) error {
	ref, err := ParseReference(key)
	if err != nil {
		return err
	}
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return err
	}
	v.spare = true
	top, _, err := r.byDigest(r.ctx, v, row.Digest)
	if err != nil {
		return err
	}
	if err := r.fetchAll(r.ctx, v, top, row.Platforms, true, newReport(ref, nil)); err != nil {
		return err
	}
	if h, err := r.holdingOf(row); err != nil || !h.complete() {
		return errors.Join(errors.New("all of it was fetched, and yet something is not here"), err)
	}
	return nil
}
