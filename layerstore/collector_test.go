package layerstore_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
)

func (k *keeper) bytes() int64 {
	st, err := k.Stats()
	must(k.T, err)
	return st.Bytes
}

// Collection begins above the cap and goes down to nine tenths of it.
func TestSizeIsKeptBelowTheCap(t *testing.T) {
	inBubble(t, layerstore.Options{MaxSize: 20 * kib}, func(k *keeper) {
		for i := range 10 {
			k.image(fmt.Sprint("image ", i), fmt.Sprint("layer ", i))
			synctest.Wait()
			if i == 9 && k.bytes() != 20*kib {
				t.Errorf("%d bytes at the cap", k.bytes())
			}
		}
		k.image("one more", "its layer")
		synctest.Wait()
		if got := k.bytes(); got != 18*kib {
			t.Errorf("%d bytes after the cap was passed, want 18 KiB", got)
		}
		k.use("image 2") // the next to go is another
		for i := range 30 {
			k.image(fmt.Sprint("later ", i), fmt.Sprint("later layer ", i))
			k.use("image 2")
			synctest.Wait()
			if got := k.bytes(); got > 20*kib {
				t.Errorf("%d bytes", got)
			}
		}
		if _, err := k.Stat(describe(padded("layer 2")).Digest); err != nil {
			t.Errorf("the image that was used all the time: %v", err)
		}
	})
}

func TestLowerCapTakesEffectAtStart(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "a1", "a2")
		k.image("b", "b1", "b2")
		k.options.MaxSize = 4 * kib
		k.reopen()
		synctest.Wait()
		k.wantHere("b", "b1", "b2")
	})
}

func TestFreeSpaceIsMadeWhenOthersFillTheDisk(t *testing.T) {
	inBubble(t, layerstore.Options{MinFree: layerstore.Reserve{Fraction: 0.25}}, func(k *keeper) {
		k.image("a", "a1", "a2")
		k.image("b", "b1", "b2")
		k.free.Store(mib/4 - 1) // of what is wanted; a fifth more than all is to be free again
		time.Sleep(time.Minute)
		synctest.Wait()
		k.wantHere() // nothing that we have is enough, and nothing has to stay
		k.image("c", "c1")
		k.free.Store(mib)
		k.image("d", "d1")
		time.Sleep(time.Hour)
		synctest.Wait()
		k.wantHere("d", "d1")
	})
}

func TestWhatNobodyUsesGoesWithAge(t *testing.T) {
	day := 24 * time.Hour
	inBubble(t, layerstore.Options{MaxAge: 7 * day}, func(k *keeper) {
		k.image("pinned", "base")
		must(t, k.SetRoot("pin", describe(padded("pinned")).Digest))
		k.image("a", "base", "a1")
		k.image("b", "base", "b1")
		time.Sleep(6 * day)
		k.use("b")
		k.wantHere("pinned", "base", "a", "a1", "b", "b1")
		time.Sleep(day)
		synctest.Wait()
		k.wantHere("pinned", "base", "b", "b1")
		time.Sleep(7 * day)
		synctest.Wait()
		k.wantHere("pinned", "base")
	})
}

// What is being pulled is used again and again, and would be fetched again and
// again if it went in between. When the pull is over it has to go.
func TestImageLargerThanTheCapIsPulledOnce(t *testing.T) {
	inBubble(t, layerstore.Options{MaxSize: 4 * kib}, func(k *keeper) {
		var layers []digest.Digest
		for i := range 12 {
			layers = append(layers, describe(padded(fmt.Sprint("layer ", i))).Digest)
		}
		k.blob("large", layers...)
		names := []string{"large"}
		for i := range layers {
			content := padded(fmt.Sprint("layer ", i))
			k.Touch(describe(padded("large")).Digest)
			must(t, k.Ensure(k.Context(), describe(content), storetest.NewSource(content), nil))
			names = append(names, fmt.Sprint("layer ", i))
			time.Sleep(3 * time.Second)
			synctest.Wait()
			k.wantHere(names...)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		k.wantHere()
	})
}

// Each image is smaller than the cap, and each pull passes it.
func TestTinyCapServesEveryPull(t *testing.T) {
	inBubble(t, layerstore.Options{MaxSize: 3 * kib}, func(k *keeper) {
		for i := range 40 {
			name := fmt.Sprint("image ", i%7)
			lease := k.Lease()
			content, layer := padded(name), padded(name+" layer")
			lease.Hold(describe(content).Digest)
			must(t, k.Put(k.Context(), describe(content), content, describe(layer).Digest, describe(padded("base")).Digest))
			for _, l := range [][]byte{layer, padded("base")} {
				must(t, k.Ensure(k.Context(), describe(l), storetest.NewSource(l), nil))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			for _, d := range []digest.Digest{describe(content).Digest, describe(layer).Digest, describe(padded("base")).Digest} {
				if _, err := k.Stat(d); err != nil {
					t.Errorf("round %d: %v", i, err)
				}
			}
			lease.Release()
		}
		synctest.Wait()
		if got := k.bytes(); got > 3*kib {
			t.Errorf("%d bytes", got)
		}
	})
}

func TestPinsOverTheCapAreExplained(t *testing.T) {
	inBubble(t, layerstore.Options{MaxSize: 2 * kib}, func(k *keeper) {
		must(t, k.SetRoot("pin", describe(padded("pinned")).Digest))
		k.image("pinned", "p1", "p2")
		k.image("a")
		synctest.Wait()
		k.wantHere("pinned", "p1", "p2")
		c := k.collect(layerstore.CollectOptions{DryRun: true})
		k.wantStay(c, "pinned", layerstore.ByRoot)
		if c.Short != kib || len(c.Gone) != 0 {
			t.Errorf("%+v", c)
		}
	})
}

func TestCollectOfAClosedStoreIsRefused(t *testing.T) {
	s := open(t, layerstore.Options{Root: t.TempDir()})
	must(t, s.Close())
	if _, err := s.Collect(t.Context(), layerstore.CollectOptions{}); err != layerstore.ErrClosed {
		t.Errorf("%v, want %v", err, layerstore.ErrClosed)
	}
}
