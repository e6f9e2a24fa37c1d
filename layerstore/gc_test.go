package layerstore_test

import (
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
)

const kib = 1 << 10

// keeper is a store whose disk and clock are the test's: it lives in a bubble.
type keeper struct {
	*testing.T
	*layerstore.Store
	options layerstore.Options
	free    atomic.Uint64 // bytes, of 1 MiB
}

// inBubble runs a test with a store. Its limits do not depend on the disk of
// the machine that tests.
func inBubble(t *testing.T, o layerstore.Options, test func(k *keeper)) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{T: t, options: o}
		k.free.Store(mib)
		k.options.Root = t.TempDir()
		k.options.Disk = func() (capacity, free uint64, err error) { return mib, k.free.Load(), nil }
		k.reopen()
		test(k)
		must(t, k.Close())
	})
}

func (k *keeper) reopen() {
	k.Helper()
	if k.Store != nil {
		must(k.T, k.Close())
	}
	k.Store = open(k.T, k.options)
}

// padded is content of 1 KiB, told apart by its beginning.
func padded(name string) []byte {
	content := make([]byte, kib)
	copy(content, name)
	return content
}

// blob keeps 1 KiB that refers to others.
func (k *keeper) blob(name string, refs ...digest.Digest) digest.Digest {
	k.Helper()
	content := padded(name)
	desc := describe(content)
	must(k.T, k.Put(k.Context(), desc, content, refs...))
	return desc.Digest
}

// image keeps layers and a manifest of 1 KiB each. An hour passes.
func (k *keeper) image(name string, layers ...string) digest.Digest {
	k.Helper()
	var refs []digest.Digest
	for _, l := range layers {
		refs = append(refs, k.blob(l))
	}
	top := k.blob(name, refs...)
	hour()
	return top
}

func (k *keeper) use(name string) {
	k.Touch(describe(padded(name)).Digest)
	hour()
}

// hour lets an hour pass, and the store do what is due at the end of it: what
// looks at the disk every minute would otherwise run beside what comes next.
func hour() {
	time.Sleep(time.Hour)
	synctest.Wait()
}

func (k *keeper) collect(o layerstore.CollectOptions) layerstore.Collection {
	k.Helper()
	c, err := k.Collect(k.Context(), o)
	must(k.T, err)
	return c
}

// wantGone collects need bytes and wants exactly these tops to go, in that order.
func (k *keeper) wantGone(need int64, names ...string) layerstore.Collection {
	k.Helper()
	c := k.collect(layerstore.CollectOptions{Need: need})
	var got, want []digest.Digest
	for _, e := range c.Gone {
		got = append(got, e.Top)
	}
	for _, name := range names {
		want = append(want, describe(padded(name)).Digest)
	}
	if !slices.Equal(got, want) {
		k.Errorf("collecting %d bytes took %v, want %v (%v)", need, got, want, names)
	}
	return c
}

// wantHere wants these blobs, and no others.
func (k *keeper) wantHere(names ...string) {
	k.Helper()
	var got, want []digest.Digest
	must(k.T, k.Each(func(i layerstore.Info) error {
		got = append(got, i.Digest)
		return nil
	}))
	for _, name := range names {
		d := describe(padded(name)).Digest
		want = append(want, d)
		if !exists(k.T, blobPath(k.options.Root, d)) {
			k.Errorf("%s has no file", name)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		k.Errorf("here are %v, want %v (%v)", got, want, names)
	}
	wantStats(k.T, k.Store, int64(len(want)), int64(len(want))*kib)
}

func (k *keeper) wantStay(c layerstore.Collection, name string, why layerstore.Reason) {
	k.Helper()
	d := describe(padded(name)).Digest
	for _, s := range c.Kept {
		if s.Top == d && s.Why == why && s.Bytes > 0 && !s.Used.IsZero() {
			return
		}
	}
	k.Errorf("%s does not stay because of %q: %+v", name, why, c.Kept)
}

func TestLeastRecentlyUsedImageGoesFirst(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "a1", "a2")
		k.image("b", "b1")
		k.image("c", "c1")
		k.use("a")
		c := k.wantGone(1, "b")
		if c.Blobs != 2 || c.Bytes != 2*kib || c.Short != 0 || c.Kept != nil || c.Gone[0].Why != layerstore.ForNeed {
			t.Errorf("%+v", c)
		}
		k.wantHere("a", "a1", "a2", "c", "c1")
		if blobs, size := k.Evicted(); blobs != 2 || size != 2*kib {
			t.Errorf("%d blobs of %d bytes are said to be evicted", blobs, size)
		}
		k.wantGone(3*kib, "c", "a")
		k.wantHere()
	})
}

func TestUseOfOwnLayerIsUseOfItsImage(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "a1")
		k.image("b", "b1")
		k.use("a1")
		k.wantGone(1, "b")
	})
}

// Who pulls b asks for the layer that it shares with a. That is no use of a.
func TestUseOfSharedLayerCountsForTheImageUsedLast(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "base", "a1")
		k.image("c", "c1")
		k.image("b", "base", "b1")
		k.use("base")
		k.wantGone(1, "a")
		k.wantGone(1, "c")
		k.wantHere("b", "base", "b1")
	})
}

func TestSharedLayerGoesWithTheLastImageThatNeedsIt(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "base", "a1")
		k.image("b", "base", "b1")
		if c := k.wantGone(1, "a"); c.Bytes != 2*kib {
			t.Errorf("%d bytes went with a", c.Bytes)
		}
		k.wantHere("b", "base", "b1")
		k.wantGone(1, "b")
		k.wantHere()
	})
}

// An index holds images of several platforms, of which one may be used by itself.
func TestIndexGoesWithItsImages(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		amd, arm := k.image("amd", "amd1"), k.image("arm", "arm1")
		k.blob("index", amd, arm, digest.FromString("a platform that is not here"))
		k.image("b", "b1")
		k.use("arm1")
		k.wantGone(1, "b")
		k.wantGone(1, "index")
		k.wantHere()
	})
}

func TestBlobThatNothingRefersToGoesByItself(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("alone")
		k.image("a", "a1")
		k.wantGone(1, "alone")
		k.wantHere("a", "a1")
	})
}

func TestRootKeepsAllThatItRefersTo(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		child := k.image("child", "base", "c1")
		k.blob("index", child)
		time.Sleep(time.Hour)
		k.image("a", "base", "a1")
		must(t, k.SetRoot("pin", child))
		c := k.wantGone(mib, "index", "a")
		k.wantHere("child", "base", "c1")
		k.wantStay(k.collect(layerstore.CollectOptions{Need: 1}), "child", layerstore.ByRoot)
		if want := int64(mib - 3*kib); c.Short != want {
			t.Errorf("short by %d bytes, want %d", c.Short, want)
		}
		must(t, k.DeleteRoot("pin"))
		k.wantGone(1, "child")
	})
}

func TestLeaseKeepsUntilReleased(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		a := k.image("a", "a1")
		lease, other := k.Lease(), k.Lease()
		lease.Hold(a, digest.FromString("not here"))
		other.Hold(a)
		k.wantStay(k.wantGone(1), "a", layerstore.ByLease)
		lease.Release()
		lease.Release()
		k.wantGone(1)
		if freed, err := k.Remove([]digest.Digest{a}, nil); err != nil || freed.Blobs != 0 {
			t.Errorf("removed %+v, %v under a lease", freed, err)
		}
		other.Release()
		k.wantGone(1, "a")
	})
}

// A layer that is to come is part of what holds it.
func TestLeaseKeepsWhatComesLater(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		lease := k.Lease()
		defer lease.Release()
		lease.Hold(describe(padded("a")).Digest)
		k.image("a", "a1")
		k.wantStay(k.wantGone(1), "a", layerstore.ByLease)
	})
}

func TestOpenReaderKeepsItsImage(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "base", "a1")
		k.image("b", "base", "b1")
		reader, err := k.Fetch(k.Context(), describe(padded("a1")), nil)
		must(t, err)
		time.Sleep(24 * time.Hour)
		k.wantStay(k.wantGone(mib, "b"), "a", layerstore.ByReader)
		k.wantHere("a", "base", "a1")
		must(t, reader.Close())
		_ = reader.Close() // a second time is an error, and counts nothing
		k.wantStay(k.wantGone(1), "a", layerstore.ByUse)
		time.Sleep(time.Minute)
		k.wantGone(1, "a")
	})
}

// One of two images has to stay for a base layer that is being read.
func TestReaderOfSharedLayerKeepsTheImageUsedLast(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "base", "a1")
		k.image("b", "base", "b1")
		reader, err := k.Fetch(k.Context(), describe(padded("base")), nil)
		must(t, err)
		defer reader.Close()
		k.wantStay(k.wantGone(mib, "a"), "b", layerstore.ByReader)
		k.wantHere("b", "base", "b1")
	})
}

func TestTransferKeepsTheImageItIsFor(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		coming := padded("coming")
		k.blob("a", k.blob("a1"), describe(coming).Digest)
		hold := make(chan struct{})
		source := storetest.Always(coming, storetest.Answer{HoldAt: kib / 2, Hold: hold})
		reader, err := k.Fetch(k.Context(), describe(coming), source)
		must(t, err)
		defer reader.Close()
		k.wantStay(k.wantGone(1), "a", layerstore.ByTransfer)
		close(hold)
		if _, err := io.Copy(io.Discard, reader); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		k.wantStay(k.wantGone(1), "a", layerstore.ByReader)
		k.wantHere("a", "a1", "coming")
	})
}

func TestWhatWasJustUsedStays(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a")
		k.Touch(describe(padded("a")).Digest)
		time.Sleep(4 * time.Second)
		k.wantStay(k.wantGone(1), "a", layerstore.ByUse)
		time.Sleep(time.Second)
		k.wantGone(1, "a")
	})
}

func TestEvictedBlobIsFetchedAnew(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		var told []digest.Digest
		k.OnEvict(func(gone []digest.Digest) { told = append(told, gone...) })
		a := k.image("a", "a1")
		k.wantGone(1, "a")
		if len(told) != 2 || !slices.Contains(told, a) {
			t.Errorf("told of %v", told)
		}
		wantUnknown(t, k.Store, a)
		must(t, k.Ensure(k.Context(), describe(padded("a1")), storetest.NewSource(padded("a1")), nil))
		k.wantHere("a1")
	})
}

func TestOrderOfUseSurvivesARestart(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "a1")
		k.image("b", "b1")
		k.image("c", "c1")
		k.use("b")
		k.use("a")
		k.reopen()
		k.wantGone(5*kib, "c", "b", "a")
	})
}

func TestDryRunTellsWhatThenGoes(t *testing.T) {
	inBubble(t, layerstore.Options{MinFree: layerstore.Reserve{Bytes: 10 * kib}}, func(k *keeper) {
		k.image("pinned", "base")
		k.image("a", "base", "a1")
		k.image("b", "a1", "b1")
		k.image("c", "c1")
		k.image("alone")
		must(t, k.SetRoot("pin", describe(padded("pinned")).Digest))
		for _, free := range []uint64{8 * kib, 7 * kib, 0} {
			k.free.Store(free)
			dry := k.collect(layerstore.CollectOptions{DryRun: true})
			again := k.collect(layerstore.CollectOptions{DryRun: true})
			real := k.collect(layerstore.CollectOptions{})
			if !slices.Equal(dry.Gone, real.Gone) || dry.Bytes != real.Bytes || dry.Blobs != real.Blobs || dry.Short != real.Short {
				t.Errorf("with %d bytes free: it would take %+v, and took %+v", free, dry, real)
			}
			if !slices.Equal(dry.Gone, again.Gone) || !slices.Equal(dry.Kept, real.Kept) {
				t.Errorf("with %d bytes free: %+v, then %+v, then %+v", free, dry, again, real)
			}
			if free > 0 && (len(real.Gone) == 0 || real.Gone[0].Why != layerstore.ForFree || real.Short != 0) {
				t.Errorf("with %d bytes free went %+v", free, real)
			}
		}
		k.wantHere("pinned", "base")
	})
}
