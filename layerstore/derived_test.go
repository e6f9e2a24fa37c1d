package layerstore_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
)

// unpacked is a room that keeps a form for some blobs.
type unpacked struct {
	store *layerstore.Store

	mu    sync.Mutex // guards forms
	forms map[digest.Digest]int64
}

func (u *unpacked) Bytes() (bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, n := range u.forms {
		bytes += n
	}
	return bytes
}

// freeable are the forms that would go with blobs. The store is asked, which it
// must allow. u.mu is held.
func (u *unpacked) freeable(blobs map[digest.Digest]bool) map[digest.Digest]int64 {
	free := map[digest.Digest]int64{}
	for d, n := range u.forms {
		if blobs[d] || !u.wanted(d) {
			free[d] = n
		}
	}
	return free
}

// wanted reports whether a blob is here, or named by what is.
func (u *unpacked) wanted(d digest.Digest) bool {
	_, err := u.store.Stat(d)
	parents, _ := u.store.Referrers(d)
	return err == nil || len(parents) > 0
}

func (u *unpacked) Freeable(blobs map[digest.Digest]bool) (bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, n := range u.freeable(blobs) {
		bytes += n
	}
	return bytes
}

func (u *unpacked) Drop(blobs []digest.Digest) (freed int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	lease := u.store.Lease() // would wait for ever in the middle of a step
	lease.Hold(blobs...)
	lease.Release()
	for _, d := range blobs {
		if u.wanted(d) {
			continue
		}
		freed += u.forms[d]
		delete(u.forms, d)
	}
	return freed
}

func (u *unpacked) Idle(want int64) (freed int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for d, n := range u.freeable(nil) {
		if freed >= want {
			break
		}
		freed += n
		delete(u.forms, d)
	}
	return freed
}

// unpack has forms of so many bytes made of blobs.
func (k *keeper) unpack(forms map[string]int64) *unpacked {
	u := &unpacked{store: k.Store, forms: map[digest.Digest]int64{}}
	for name, n := range forms {
		u.forms[describe(padded(name)).Digest] = n
	}
	k.SetDerived(u)
	return u
}

func TestFormsCountInTheLimitOfSize(t *testing.T) {
	inBubble(t, layerstore.Options{MaxSize: 20 * kib}, func(k *keeper) {
		k.image("a", "a1")
		k.image("b", "b1")
		k.wantHere("a", "a1", "b", "b1")
		u := k.unpack(map[string]int64{"a1": 10 * kib, "b1": 10 * kib}) // 24 KiB in all
		synctest.Wait()
		k.wantHere("b", "b1")
		if got := u.Bytes(); got != 10*kib {
			t.Errorf("forms of %d bytes are left", got)
		}
		st, err := k.Stats()
		must(t, err)
		if st.FormBytes != 10*kib {
			t.Errorf("%d bytes of forms are told", st.FormBytes)
		}
	})
}

func TestPlanCountsWhatGoesWithAnImage(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "a1", "both")
		k.image("b", "b1", "both")
		u := k.unpack(map[string]int64{"a1": 10 * kib, "b1": 10 * kib, "both": kib})
		dry := k.collect(layerstore.CollectOptions{DryRun: true, Need: 15 * kib})
		if len(dry.Gone) != 2 || dry.Gone[0].Forms != 10*kib || dry.Gone[0].Bytes != 12*kib || dry.Gone[1].Forms != 11*kib || dry.Short != 0 {
			t.Errorf("planned %+v", dry)
		}
		c := k.wantGone(12*kib, "a") // 2 KiB of blobs alone would not do
		if c.Bytes != 12*kib || u.Bytes() != 11*kib {
			t.Errorf("%+v; %d bytes of forms are left", c, u.Bytes())
		}
	})
}

func TestIdleFormsGoBeforeAnyImage(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "a1")
		u := k.unpack(map[string]int64{"gone long ago": 5 * kib, "a1": kib})
		want := layerstore.Leftover{Kind: layerstore.LeftForms, Bytes: 5 * kib, Why: layerstore.ForNeed}
		for _, dry := range []bool{true, false} {
			c := k.collect(layerstore.CollectOptions{DryRun: dry, Need: 5 * kib})
			if len(c.Leftovers) != 1 || c.Leftovers[0] != want || len(c.Gone) != 0 || c.Bytes != 5*kib {
				t.Errorf("%+v", c)
			}
		}
		if u.Bytes() != kib {
			t.Errorf("%d bytes of forms are left", u.Bytes())
		}
	})
}

func TestFormsGoWithBlobsThatAreRemoved(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		a := k.image("a", "a1")
		k.image("b", "b1")
		u := k.unpack(map[string]int64{"a1": 5 * kib, "b": 5 * kib, "b1": kib})
		freed, err := k.Remove([]digest.Digest{a}, nil)
		if err != nil || freed != (layerstore.Freed{Blobs: 2, Bytes: 7 * kib}) {
			t.Errorf("%+v, %v", freed, err)
		}
		must(t, k.Delete(describe(padded("b")).Digest))
		if u.Bytes() != kib {
			t.Errorf("%d bytes of forms are left", u.Bytes())
		}
	})
}
