package layerstore

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// silent is a source that never says a word.
type silent struct{}

func (silent) Open(ctx context.Context, _, _ int64) (*Body, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func putText(t *testing.T, s *Store, text string, refs ...digest.Digest) digest.Digest {
	t.Helper()
	desc := specs.Descriptor{Digest: digest.FromString(text), Size: int64(len(text))}
	if err := s.Put(t.Context(), desc, []byte(text), refs...); err != nil {
		t.Fatal(err)
	}
	return desc.Digest
}

// Between the plan and the step that carries it out anything may have come to
// hold what was to go.
func TestStepLeavesWhatHasChangedSinceThePlan(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, s *Store, top, layer digest.Digest){
		"a root": func(t *testing.T, s *Store, top, _ digest.Digest) {
			if err := s.SetRoot("pin", top); err != nil {
				t.Fatal(err)
			}
		},
		"a root of a layer": func(t *testing.T, s *Store, _, layer digest.Digest) {
			if err := s.SetRoot("pin", layer); err != nil {
				t.Fatal(err)
			}
		},
		"a lease":          func(_ *testing.T, s *Store, top, _ digest.Digest) { s.Lease().Hold(top) },
		"a reader":         func(_ *testing.T, s *Store, _, layer digest.Digest) { s.inUse.read(layer) },
		"a use":            func(_ *testing.T, s *Store, top, _ digest.Digest) { s.Touch(top) },
		"a use of a layer": func(_ *testing.T, s *Store, _, layer digest.Digest) { s.Touch(layer) },
		"a new parent":     func(t *testing.T, s *Store, top, _ digest.Digest) { putText(t, s, "index", top) },
		"an image that shares a layer": func(t *testing.T, s *Store, _, layer digest.Digest) {
			putText(t, s, "other image", layer)
		},
		"an image that shares a layer through what is not here": func(t *testing.T, s *Store, _, layer digest.Digest) {
			away := digest.FromString("away")
			if err := s.SetRefs(away, []digest.Digest{layer}); err != nil {
				t.Fatal(err)
			}
			putText(t, s, "other index", away)
		},
		"a transfer of something that refers to it": func(t *testing.T, s *Store, top, _ digest.Digest) {
			coming := digest.FromString("coming")
			if err := s.SetRefs(coming, []digest.Digest{top}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.join(specs.Descriptor{Digest: coming}, silent{}); err != nil {
				t.Fatal(err)
			}
		},
		"a removal": func(t *testing.T, s *Store, top, _ digest.Digest) {
			if _, err := s.Remove([]digest.Digest{top}, nil); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			s, err := Open(Options{Root: t.TempDir(), Now: func() time.Time { return now }})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			layer := putText(t, s, "layer")
			top := putText(t, s, "image", layer)
			now = now.Add(time.Hour)
			p, err := s.plan(1)
			if err != nil || len(p.units) != 1 {
				t.Fatal(p.units, err)
			}
			now = now.Add(time.Second)
			change(t, s, top, layer)
			before := s.counts.blobs.Load()
			var c Collection
			left, err := s.carryOut(t.Context(), p, &c)
			if err != nil || left != 1 || len(c.Gone) != 0 || s.counts.blobs.Load() != before {
				t.Errorf("%d left, %+v, %v, %d blobs of %d", left, c, err, s.counts.blobs.Load(), before)
			}
		})
	}
}

// A closed or cancelled collection ends between two steps, and what it tells
// went is what went.
func TestCollectionEndsBetweenSteps(t *testing.T) {
	now := time.Now()
	s, err := Open(Options{Root: t.TempDir(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 2*stepBlobs + 1 {
		putText(t, s, string(bytes.Repeat([]byte{'x'}, i+1)))
	}
	now = now.Add(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	s.OnEvict(func([]digest.Digest) { cancel() })
	c, err := s.Collect(ctx, CollectOptions{Need: 1 << 20})
	if err == nil || len(c.Gone) != stepBlobs || c.Blobs != stepBlobs || s.counts.blobs.Load() != stepBlobs+1 {
		t.Errorf("%d went, %d blobs are left, %v", len(c.Gone), s.counts.blobs.Load(), err)
	}
}
