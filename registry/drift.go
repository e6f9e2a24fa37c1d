package registry

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	// driftWait bounds the question about drift, all pins together.
	driftWait = 10 * time.Second
	// watchEvery is how often the watch looks whether a pin is due; an hour's
	// rhythm needs no finer one.
	watchEvery = time.Minute
	// lookMost bounds one look at one pin: nobody waits for it.
	lookMost = time.Minute
)

// findDrift asks upstream now about all given pins, and what changed in those
// that moved.
func (r *Registry) findDrift(ctx context.Context, pins []Pin) {
	ctx, cancel := context.WithTimeoutCause(ctx, driftWait, errNoAnswer)
	defer cancel()
	var questions errgroup.Group
	questions.SetLimit(fetchesAtOnce)
	for i := range pins {
		questions.Go(func() error {
			r.findDriftOf(ctx, &pins[i])
			return nil
		})
	}
	_ = questions.Wait() // each pin has its own reason
}

func (r *Registry) findDriftOf(ctx context.Context, pin *Pin) {
	row, ok := r.pinRow(pin.Reference)
	if !ok || row.Digest.String() != pin.Digest {
		return // it moved meanwhile
	}
	if strings.Contains(pin.Reference, "@") {
		pin.Drift, pin.UpstreamDigest = DriftSame, pin.Digest // a digest does not move
		return
	}
	now, err := r.upstreamDigest(ctx, pin.Reference)
	found := drift{upstream: now, at: r.now()}
	switch {
	case err != nil:
		found.why = err.Error()
	case now != row.Digest:
		found.change = r.changeOf(ctx, pin.Reference, row, now)
	}
	r.desired.drifted(pin.Reference, row.Digest, found)
	found.tell(pin)
	pin.State = r.desired.known(pin.Reference, row.Digest).state(*pin)
}

// drifted notes what upstream says of a pinned tag. What changed stays known
// while upstream says the same.
func (d *desired) drifted(key string, at digest.Digest, found drift) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.effortOf(key, at, d.soon(found.at, lookEvery))
	if found.change == nil && found.upstream == e.drift.upstream {
		found.change = e.drift.change
	}
	e.drift = found
}

// upstreamDigest is what a reference means upstream now.
func (r *Registry) upstreamDigest(ctx context.Context, reference string) (digest.Digest, error) {
	ref, err := ParseReference(reference)
	if err != nil {
		return "", err
	}
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return "", err
	}
	v.spare = true
	head, err := v.upstream.head(ctx, ref.Path, ref.asked())
	if errors.Is(err, errNoHead) {
		got, err := v.upstream.manifest(v.sparing(ctx), ref.Path, ref)
		return got.Descriptor.Digest, err
	}
	return head.Digest, err
}

// watch looks at each pin now and then, one after the other: what its tag
// means upstream, by HEAD, and what refers to it.
func (r *Registry) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		case <-r.desired.wake:
		}
		r.look()
	}
}

// look looks at the pins that are due.
func (r *Registry) look() {
	for key, row := range r.pinRows() {
		if r.ctx.Err() != nil {
			return
		}
		ref, err := ParseReference(key)
		if err != nil {
			continue
		}
		v, err := r.operatorView(ref.Repository)
		if err != nil {
			continue
		}
		if _, _, resting := v.upstream.resting(); resting {
			continue // its turn comes when upstream is back
		}
		v.spare = true
		again := max(lookEvery, lookTTLs*v.upstream.options.TagTTL)
		now := r.now()
		if known, due := r.desired.claimLook(key, row.Digest, now, again); due {
			// Upstream was asked for the digest of a pin that was made just now.
			r.lookAt(v, ref, key, row, known, now.Sub(row.At) < lookEvery/2)
		}
	}
}

// claimLook tells whether a pin is to be looked at now, and if so sets its
// next look, spread around the given span.
func (d *desired) claimLook(key string, at digest.Digest, now time.Time, span time.Duration) (known effort, due bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.of[key]
	if e == nil || e.digest != at || e.filling || e.failures > 0 || now.Before(e.look) {
		return known, false
	}
	known = *e
	e.look = d.soon(now.Add(span*3/4), span/2)
	return known, true
}

// lookAt makes sure that upstream has shown all of a pinned image in its
// repository, keeps what refers to it, and asks by HEAD what its tag means now,
// unless the pin is young.
func (r *Registry) lookAt(v view, ref Reference, key string, row pinRow, known effort, young bool) {
	ctx, cancel := context.WithTimeout(r.ctx, lookMost)
	defer cancel()
	top, err := r.local(row.Digest)
	if err != nil {
		return
	}
	p, err := r.localPlan(top, row.Platforms)
	if err != nil {
		return
	}
	r.showHolds(ctx, v, p)
	r.fetchReferrers(v.sparing(ctx), v, p)
	if ref.Tag == "" || young && known.drift.at.IsZero() {
		return
	}
	head, err := v.upstream.head(ctx, ref.Path, ref.Tag)
	if errors.Is(err, errNoHead) || r.ctx.Err() != nil {
		return // a GET counts against a rate limit: pins --drift may do that, a watch may not
	}
	found := drift{upstream: head.Digest, at: r.now()}
	if err != nil {
		found.why = err.Error()
	}
	r.desired.drifted(key, row.Digest, found)
	if err == nil && head.Digest != row.Digest && known.drift.upstream != head.Digest {
		r.log.Info("upstream moved a pinned tag", "reference", key, "pinned", row.Digest, "upstream", head.Digest)
	}
}
