package layerstore_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
)

func (k *keeper) shed(name string, want error) {
	k.Helper()
	if _, err := k.Shed(describe(padded(name)).Digest, time.Minute); !errors.Is(err, want) {
		k.Errorf("shedding %s: %v, want %v", name, err, want)
	}
}

func TestShedBlobIsAsIfItHadNeverBeenFetched(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "a1", "both")
		k.image("b", "both")
		desc := describe(padded("both"))
		if freed, err := k.Shed(desc.Digest, time.Hour); freed != kib || err != nil {
			t.Errorf("freed %d, %v", freed, err)
		}
		k.wantHere("a", "a1", "b")
		if parents, err := k.Referrers(desc.Digest); err != nil || len(parents) != 2 {
			t.Errorf("named by %v, %v", parents, err)
		}
		k.reopen()
		k.wantHere("a", "a1", "b")
		if lost := k.Lost(); len(lost) != 0 {
			t.Errorf("it counts as lost: %v", lost)
		}
		b, err := k.Fetch(k.Context(), desc, storetest.NewSource(padded("both")))
		must(t, err)
		content, err := io.ReadAll(b)
		must(t, errors.Join(err, b.Close()))
		if !bytes.Equal(content, padded("both")) {
			t.Error("other bytes")
		}
		must(t, k.Ensure(k.Context(), desc, nil, nil))
		k.wantHere("a", "a1", "both", "b")
	})
}

func TestWhatIsNotShed(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		top := k.image("a", "a1", "read", "rooted")
		k.shed("a", layerstore.ErrNeeded) // it names others
		k.shed("never was", layerstore.ErrNotFound)
		must(t, k.SetRoot("rooted", describe(padded("rooted")).Digest))
		k.shed("rooted", layerstore.ErrNeeded)

		b, err := k.Fetch(k.Context(), describe(padded("read")), nil)
		must(t, err)
		hour()
		k.shed("read", layerstore.ErrInUse)
		must(t, b.Close())
		k.shed("read", layerstore.ErrInUse) // it was used a moment ago
		hour()
		k.shed("read", nil)

		lease := k.Lease()
		lease.Hold(top)
		k.shed("a1", layerstore.ErrInUse) // a pull of it is under way
		lease.Release()
		must(t, k.SetRoot("pin", top))
		k.shed("a1", nil) // whether a pin wants it is its caller's to know
		k.blob("fresh")
		must(t, k.Close())
		k.shed("fresh", layerstore.ErrClosed)
		k.reopen()
		k.shed("fresh", layerstore.ErrInUse) // as its row says
		k.wantHere("a", "fresh", "rooted")
	})
}

// A kill between the row and the file leaves the file, which is taken in again.
func TestKillWhileShedding(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.image("a", "a1")
		path := blobPath(k.options.Root, describe(padded("a1")).Digest)
		k.shed("a1", nil)
		if exists(t, path) {
			t.Fatal("its file is there")
		}
		must(t, k.Close())
		must(t, os.WriteFile(path, padded("a1"), 0o600))
		k.Store = open(t, k.options)
		k.wantHere("a", "a1")
		hour()
		k.shed("a1", nil)
		k.wantHere("a")
	})
}

// What was made of a blob that was shed stays as long as an image names it, and
// goes with the last one.
func TestFormsOfShedBlobsGoWithTheirImages(t *testing.T) {
	for way, removed := range map[string]func(k *keeper, name string){
		"evicted": func(k *keeper, name string) { k.wantGone(kib, name) },
		"removed": func(k *keeper, name string) {
			_, err := k.Remove([]digest.Digest{describe(padded(name)).Digest}, nil)
			must(k.T, err)
		},
	} {
		t.Run(way, func(t *testing.T) {
			inBubble(t, layerstore.Options{}, func(k *keeper) {
				k.image("a", "a1", "both")
				k.image("b", "both")
				u := k.unpack(map[string]int64{"a1": 10 * kib, "both": kib})
				k.shed("a1", nil)
				k.shed("both", nil)
				if n := k.forms(); n != 0 {
					t.Errorf("%d bytes of forms are idle", n)
				}
				dry := k.collect(layerstore.CollectOptions{DryRun: true, Need: 11 * kib})
				if len(dry.Gone) != 1 || dry.Gone[0].Bytes != 11*kib || dry.Gone[0].Forms != 10*kib || len(dry.Leftovers) != 0 {
					t.Errorf("planned %+v", dry)
				}
				removed(k, "a")
				if u.Bytes() != kib {
					t.Errorf("%d bytes of forms are left with b", u.Bytes())
				}
				hour()
				removed(k, "b")
				if u.Bytes() != 0 {
					t.Errorf("%d bytes of forms are left without images", u.Bytes())
				}
			})
		})
	}
}

// forms is how many bytes of forms would go before any image.
func (k *keeper) forms() (idle int64) {
	k.Helper()
	for _, l := range k.collect(layerstore.CollectOptions{DryRun: true, Need: 1}).Leftovers {
		if l.Kind == layerstore.LeftForms {
			idle += l.Bytes
		}
	}
	return idle
}
