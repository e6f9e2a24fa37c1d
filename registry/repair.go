package registry

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// A blob that rotted is fetched again at once. Where that fails, the next
	// try is after firstRepair, then twice as long each time, up to lastRepair:
	// an upstream that does not have it any more is not pestered.
	firstRepair = time.Minute
	lastRepair  = time.Hour
)

var errNowhere = errors.New("no repository is known to have it")

// repairs remember what was tried in vain.
type repairs struct {
	mu sync.Mutex // guards of
	of map[digest.Digest]failedRepair
}

type failedRepair struct {
	times int
	next  time.Time
	why   error
}

// failed notes that a repair failed, and returns when to try again.
func (f *repairs) failed(d digest.Digest, why error, now time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = map[digest.Digest]failedRepair{}
	}
	times := f.of[d].times + 1
	next := now.Add(min(firstRepair<<min(times-1, 10), lastRepair))
	f.of[d] = failedRepair{times, next, why}
	return next
}

// known is what was tried of those that are still lost; the others are forgotten.
func (f *repairs) known(lost []layerstore.Loss) map[digest.Digest]failedRepair {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.of, func(d digest.Digest, _ failedRepair) bool {
		return !slices.ContainsFunc(lost, func(l layerstore.Loss) bool { return l.Digest == d })
	})
	return maps.Clone(f.of)
}

// repairing fetches again what the store lost to rot, until the registry closes.
func (r *Registry) repairing() {
	for {
		timer := time.NewTimer(r.repairDue())
		select {
		case <-r.ctx.Done():
			timer.Stop()
			return
		case <-r.store.Rot():
			timer.Stop()
			nudge(r.lacks) // pins are the converge loop's
		case <-timer.C:
		}
	}
}

// repairDue repairs what is due, and returns how long nothing will be.
func (r *Registry) repairDue() time.Duration {
	lost := r.store.Lost()
	known, now := r.repairs.known(lost), r.now()
	wait := lastRepair
	due := slices.DeleteFunc(lost, func(l layerstore.Loss) bool {
		left := known[l.Digest].next.Sub(now)
		if left <= 0 || left > lastRepair { // or the clock was set back
			return false
		}
		wait = min(wait, left)
		return true
	})
	if len(due) > 0 {
		r.repair(r.ctx, due)
		wait = min(wait, firstRepair)
	}
	return wait
}

// repair brings blobs back that were lost, and forgets those that nothing
// needs. What cannot be had stays lost, and is remembered with the reason.
func (r *Registry) repair(ctx context.Context, lost []layerstore.Loss) {
	needed, err := r.neededByImages()
	if err != nil {
		r.log.Error("damaged blobs not repaired", "error", err)
		return
	}
	holders, err := r.holders(lost)
	if err != nil {
		r.log.Error("damaged blobs not repaired", "error", err)
		return
	}
	var fetches errgroup.Group
	fetches.SetLimit(fetchesAtOnce)
	for _, loss := range lost {
		fetches.Go(func() error {
			r.repairOne(ctx, loss, needed[loss.Digest], holders[loss.Digest])
			return nil
		})
	}
	_ = fetches.Wait() // each failure is remembered
}

func (r *Registry) repairOne(ctx context.Context, loss layerstore.Loss, needed bool, holders []Repository) {
	if _, gone := r.store.Stat(loss.Digest); gone == nil {
		return // back a moment ago
	}
	if !needed {
		if err := r.store.Forget(loss.Digest); err != nil {
			r.log.Warn("end of a loss not recorded", "digest", loss.Digest, "error", err)
		}
		return
	}
	err := r.bringBack(ctx, loss, holders)
	if err == nil || ctx.Err() != nil {
		return
	}
	next := r.repairs.failed(loss.Digest, err, r.now())
	r.log.Warn("damaged blob could not be fetched again", "digest", loss.Digest, "next", next, "error", err)
}

// bringBack gets a blob from memory, or from the first repository that gives it.
func (r *Registry) bringBack(ctx context.Context, loss layerstore.Loss, holders []Repository) error {
	if m, ok := r.manifests.Peek(loss.Digest); ok {
		return r.store.Put(ctx, m.Descriptor, m.Content, m.parsed.digests()...)
	}
	failures := []error{}
	for _, in := range holders {
		err := r.bringBackFrom(ctx, in, loss)
		if err == nil {
			return nil
		}
		failures = append(failures, r.about(in.String()+"@"+loss.Digest.String(), err))
	}
	if len(failures) == 0 {
		return errNowhere
	}
	return errors.Join(failures...)
}

func (r *Registry) bringBackFrom(ctx context.Context, in Repository, loss layerstore.Loss) error {
	v, err := r.operatorView(in)
	if err != nil {
		return err
	}
	if isIndex(loss.MediaType) || isImage(loss.MediaType) {
		m, _, err := r.byDigest(ctx, v, loss.Digest)
		if err != nil {
			return err
		}
		return r.store.Put(ctx, m.Descriptor, m.Content, m.parsed.digests()...)
	}
	return r.store.Ensure(ctx, specs.Descriptor{Digest: loss.Digest, Size: loss.Size, MediaType: loss.MediaType}, v.source(loss.Digest), nil)
}

// neededByImages is everything that a tag, a pin, or a manifest that is here
// refers to, at whatever distance.
func (r *Registry) neededByImages() (map[digest.Digest]bool, error) {
	tops := slices.Collect(maps.Values(r.named()))
	err := r.store.Each(func(i layerstore.Info) error {
		if isIndex(i.MediaType) || isImage(i.MediaType) {
			tops = append(tops, i.Digest)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r.store.Closure(tops...)
}

// holders are the repositories that are known to have each of the blobs, or,
// where the state that knew was lost, those of the images that need it.
func (r *Registry) holders(lost []layerstore.Loss) (map[digest.Digest][]Repository, error) {
	holders := map[digest.Digest][]Repository{}
	for _, l := range lost {
		holders[l.Digest] = nil
	}
	err := r.state.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketHolds).ForEach(func(k, _ []byte) error {
			_, d, _ := strings.Cut(string(k), "@")
			found, wanted := holders[digest.Digest(d)]
			if !wanted {
				return nil
			}
			ref, err := ParseReference(string(k))
			if err != nil {
				return err
			}
			holders[ref.Digest] = append(found, ref.Repository)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return holders, r.likelyHolders(holders)
}

// likelyHolders adds the repositories of tags and pins that need a blob to those
// that nobody is known to hold.
func (r *Registry) likelyHolders(holders map[digest.Digest][]Repository) error {
	var unknown []digest.Digest
	for d, known := range holders {
		if len(known) == 0 {
			unknown = append(unknown, d)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	for name, top := range r.named() {
		needed, err := r.store.Closure(top)
		if err != nil {
			return err
		}
		ref, err := ParseReference(name)
		if err != nil {
			continue // the row cannot be meant for this version
		}
		for _, d := range unknown {
			if needed[d] && !slices.Contains(holders[d], ref.Repository) {
				holders[d] = append(holders[d], ref.Repository)
			}
		}
	}
	return nil
}
