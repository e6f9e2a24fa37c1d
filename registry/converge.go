package registry

import (
	"time"
)

// converge makes what is here agree with what is pinned, every now and then
// and whenever a pin was left incomplete, until the registry closes.
func (r *Registry) converge() {
	tick := time.NewTicker(convergeEvery)
	defer tick.Stop()
	for {
		r.completePins()
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		case <-r.lacks:
			// The failure is seconds old: leave upstream its time.
			select {
			case <-r.ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// completePins fetches what pins lack, one pin after the other.
func (r *Registry) completePins() {
	for key, row := range r.pinRows() {
		if r.ctx.Err() != nil {
			return
		}
		if h, err := r.holdingOf(row); err == nil && h.complete() {
			continue
		}
		if err := r.completePin(key, row); err != nil {
			r.log.Warn("pin is incomplete", "reference", key, "digest", row.Digest, "error", err)
			continue
		}
		r.log.Info("pin is complete", "reference", key, "digest", row.Digest)
	}
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
	top, _, err := r.byDigest(r.ctx, v, row.Digest)
	if err != nil {
		return err
	}
	return r.fetchAll(r.ctx, v, top, row.Platforms, newReport(ref, nil))
}
