package layerstore_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// written sets when a file was last written to, by the clock of the test.
func written(t *testing.T, path string, ago time.Duration) {
	t.Helper()
	at := time.Now().Add(-ago)
	must(t, os.Chtimes(path, at, at))
}

func partialPath(root string, d digest.Digest) string {
	return filepath.Join(root, "ingest", d.Algorithm().String()+"-"+d.Encoded()+".part")
}

// errRefused is a source's refusal: what came before it is kept.
type errRefused struct{}

func (errRefused) Error() string   { return "refused" }
func (errRefused) Permanent() bool { return true }

// breakOff leaves the partial file of a blob of which 4 MiB came.
func (k *keeper) breakOff(ago time.Duration) (content []byte, d digest.Digest) {
	k.Helper()
	content = append([]byte(ago.String()), random(5*mib)...)
	desc := describe(content)
	src := storetest.Answers(content, storetest.Answer{Break: 4 * mib}, storetest.Answer{Err: errRefused{}})
	if err := k.Ensure(k.Context(), desc, src, nil); !errors.As(err, new(errRefused)) {
		k.Fatal(err)
	}
	synctest.Wait()
	written(k.T, partialPath(k.options.Root, desc.Digest), ago)
	return content, desc.Digest
}

// leave leaves an ingest of 1 MiB that nobody has open.
func (k *keeper) leave(name string, ago time.Duration) {
	k.Helper()
	before := files(k.T, k.options.Root)
	i := ingest(k.T, k.Store, name, specs.Descriptor{})
	write(k.T, i, random(mib))
	must(k.T, i.Close())
	for _, path := range files(k.T, k.options.Root) {
		if !slices.Contains(before, path) {
			written(k.T, path, ago)
		}
	}
}

func files(t *testing.T, root string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "ingest", "*"))
	must(t, err)
	return found
}

// rot leaves a blob of 1 MiB in quarantine.
func (k *keeper) rot(name string) {
	k.Helper()
	content := append(random(mib), name...)
	desc := describe(content)
	must(k.T, k.Put(k.Context(), desc, content))
	flip(flipMiddle)(k.T, blobPath(k.options.Root, desc.Digest), mib)
	must(k.T, k.Quarantine(desc.Digest))
	if _, err := k.Stat(desc.Digest); !errors.Is(err, layerstore.ErrNotFound) {
		k.Fatal(err)
	}
	time.Sleep(time.Minute) // the time is a part of the name
}

func kinds(c layerstore.Collection) (kinds []layerstore.LeftoverKind) {
	for _, l := range c.Leftovers {
		kinds = append(kinds, l.Kind)
	}
	return kinds
}

func TestLeftoversGoBeforeAnyImage(t *testing.T) {
	const capacity = 100 * mib
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.options.Disk = func() (uint64, uint64, error) { return capacity, capacity, nil }
		k.reopen()
		k.image("a", "a1")
		k.rot("x")
		k.leave("newer", time.Hour)
		k.breakOff(3 * time.Hour)
		k.leave("oldest", 5*time.Hour)
		st, err := k.Stats()
		must(t, err)
		if st.Quarantine != 1 || st.QuarantineBytes < mib || st.Idle != 3 || st.IdleBytes < 6*mib || st.PartialBytes != st.IdleBytes {
			t.Errorf("%+v", st)
		}
		all := []layerstore.LeftoverKind{layerstore.LeftQuarantined, layerstore.LeftIngest, layerstore.LeftPartial, layerstore.LeftIngest}
		for _, c := range []struct {
			need int64
			left []layerstore.LeftoverKind
			gone int
		}{{1, all[:1], 0}, {mib + 100*kib, all[:2], 0}, {3 * mib, all[:3], 0}, {1000 * mib, all, 1}} {
			told := k.collect(layerstore.CollectOptions{DryRun: true, Need: c.need})
			if !slices.Equal(kinds(told), c.left) || len(told.Gone) != c.gone {
				t.Errorf("for %d bytes: %+v", c.need, told)
			}
		}
		told := k.wantGone(3 * mib)
		if !slices.Equal(kinds(told), all[:3]) || told.Leftovers[1].Name != "oldest" || told.Bytes < 6*mib || told.Short != 0 {
			t.Errorf("%+v", told)
		}
		st, err = k.Stats()
		must(t, err)
		if st.Quarantine != 0 || st.Idle != 1 {
			t.Errorf("afterwards %+v", st)
		}
		k.wantHere("a", "a1")
	})
}

func TestLeftoversCountInTheLimitOfSize(t *testing.T) {
	inBubble(t, layerstore.Options{MaxSize: 5 * mib}, func(k *keeper) {
		k.image("a", "a1")
		_, d := k.breakOff(time.Hour)
		k.image("b", "b1") // a commit looks at the limits: 4 MiB are within
		k.wantHere("a", "a1", "b", "b1")
		if !exists(t, partialPath(k.options.Root, d)) {
			t.Fatal("a partial file went within the limits")
		}
		k.leave("x", time.Minute) // 5 MiB and more
		k.image("c", "c1")
		k.wantHere("a", "a1", "b", "b1", "c", "c1")
		if exists(t, partialPath(k.options.Root, d)) {
			t.Error("beyond the limit a partial file stays")
		}
		if _, err := k.StatIngest("x"); err != nil {
			t.Errorf("the younger leftover: %v", err)
		}
	})
}

// Between two pieces of an upload nobody has its ingest open.
func TestAnIngestThatPausesIsNoLeftover(t *testing.T) {
	inBubble(t, layerstore.Options{MaxSize: 5 * mib}, func(k *keeper) {
		k.leave("paused", 9*time.Minute)
		k.leave("left", 11*time.Minute)
		told := k.collect(layerstore.CollectOptions{Need: 1000 * mib})
		if len(told.Leftovers) != 1 || told.Leftovers[0].Name != "left" {
			t.Errorf("%+v; want what nobody has gone on with for long to go", told)
		}
		if _, err := k.StatIngest("paused"); err != nil {
			t.Errorf("somebody may go on with it: %v", err)
		}
	})
}

func TestTransferUnderWayIsNoLeftover(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		content, d := k.breakOff(30 * day)
		hold := make(chan struct{})
		src := storetest.Always(content, storetest.Answer{HoldAt: 4*mib + kib, Hold: hold})
		b, err := k.Fetch(k.Context(), describe(content), src)
		must(t, err)
		i := ingest(t, k.Store, "open", specs.Descriptor{})
		write(t, i, random(mib))
		written(t, ingestData(t, k.options.Root), 30*day)
		c := k.collect(layerstore.CollectOptions{Need: 1})
		if len(c.Leftovers) != 0 {
			t.Errorf("%+v", c)
		}
		must(t, i.Close())
		close(hold)
		defer b.Close()
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if got := src.Requests()[0].Offset; got != 4*mib {
			t.Errorf("%s was asked for from %d", d, got)
		}
	})
}

// A week is over while the process runs on.
func TestOldLeftoversGoWhileTheStoreIsOpen(t *testing.T) {
	inBubble(t, layerstore.Options{}, func(k *keeper) {
		k.options.Disk = func() (uint64, uint64, error) { return 100 * mib, 100 * mib, nil }
		k.reopen()
		_, young := k.breakOff(time.Hour)
		_, old := k.breakOff(7*day - time.Hour)
		k.leave("old", 7*day-time.Hour)
		k.rot("x")
		hour()
		hour()
		if exists(t, partialPath(k.options.Root, old)) || !exists(t, partialPath(k.options.Root, young)) {
			t.Error("not the old partial file went")
		}
		if _, err := k.StatIngest("old"); !errors.Is(err, layerstore.ErrNotFound) {
			t.Errorf("the old ingest: %v", err)
		}
		time.Sleep(7 * day)
		synctest.Wait()
		if left, err := os.ReadDir(filepath.Join(k.options.Root, "quarantine")); err != nil || len(left) != 0 {
			t.Errorf("in quarantine %v, %v", left, err)
		}
	})
}

func TestQuarantineHasAShareOfTheDisk(t *testing.T) {
	for name, o := range map[string]layerstore.Options{
		"of max_size":        {MaxSize: 60 * mib},
		"of the disk":        {},
		"of next to nothing": {MaxSize: 2 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, o, func(k *keeper) {
				k.options.Disk = func() (uint64, uint64, error) { return 60 * mib, 60 * mib, nil }
				k.reopen()
				for range 5 {
					k.rot("x")
				}
				want := 2 // of a little more than 1 MiB, in 3 MiB
				if o.MaxSize == 2*mib {
					want = 0
				}
				left, err := os.ReadDir(filepath.Join(k.options.Root, "quarantine"))
				if err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) != want {
					t.Errorf("%d files in quarantine, want %d: %v", len(left), want, err)
				}
			})
		})
	}
}
