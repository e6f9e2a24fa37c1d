package layerstore

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// What stands in a row of the index may be anything: bolt has no checksums. A
// row is refused at Open, and with it the index, which is made anew; or it can
// be used by all that reads it, and is written as it was read.

// planted is an index in which one row after the other is planted.
type planted struct {
	*index
	layout layout
}

func newPlanted(f *testing.F) *planted {
	f.Helper()
	l := layout{f.TempDir()}
	x, err := openIndex(l, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	x.db.DB().NoSync = true // it has to survive nothing
	f.Cleanup(func() { x.db.Close() })
	return &planted{x, l}
}

// plant makes a row the only one of its bucket, and reports whether Open would
// go on with it.
func (p *planted) plant(t *testing.T, bucket, key, value []byte) (accepted bool) {
	t.Helper()
	if len(key) == 0 || len(key) > bolt.MaxKeySize {
		t.Skip("bolt has no such key")
	}
	p.update(t, func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(bucket); err != nil {
			return err
		}
		rows, err := tx.CreateBucket(bucket)
		if err != nil {
			return err
		}
		return rows.Put(key, value)
	})
	err := p.db.View(checkRows)
	if err != nil && !errors.As(err, new(*boltfile.Damage)) {
		t.Fatalf("refused with %v, for which nothing is made anew", err)
	}
	return err == nil
}

func (p *planted) update(t *testing.T, change func(*bolt.Tx) error) {
	t.Helper()
	if err := p.db.Update(change); err != nil {
		t.Fatal(err)
	}
}

// wantDigest wants what was read as a digest to be one: of another the path
// cannot be told without a panic.
func (p *planted) wantDigest(t *testing.T, d digest.Digest) {
	t.Helper()
	if err := d.Validate(); err != nil {
		t.Fatalf("accepted %q: %v", d, err)
	}
	_, _, _ = p.layout.blob(d), p.layout.partial(d), p.layout.journal(d)
}

// same compares rows by what they say; times may be in other zones.
func (r row) same(o row) bool {
	return r.Size == o.Size && r.MediaType == o.MediaType && r.Epoch == o.Epoch &&
		r.Sealed.Equal(o.Sealed) && r.Used.Equal(o.Used) && r.Proven.Equal(o.Proven)
}

func FuzzBlobRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if !p.plant(t, bucketBlobs, key, value) {
			return
		}
		d := digest.Digest(key)
		p.wantDigest(t, d)
		r, err := p.get(d)
		if err != nil || r.Size < 0 {
			t.Fatalf("accepted, and then: %+v, %v", r, err)
		}
		p.wantListed(t, d, r)
		p.epoch = r.Epoch // which a row gets from the index that writes it
		if blobs, _, err := p.putRows([]sealed{{digest: d, row: r}}); err != nil || blobs != 0 {
			t.Fatalf("written again: %d new blobs, %v", blobs, err)
		}
		p.wantListed(t, d, r)
		if err := errors.Join(p.touch(map[digest.Digest]time.Time{d: r.Used}), p.renew(map[digest.Digest]time.Time{d: r.Proven})); err != nil {
			t.Fatal(err)
		}
		p.wantListed(t, d, r)
	})
}

// wantListed wants exactly this row, whichever way it is read.
func (p *planted) wantListed(t *testing.T, d digest.Digest, want row) {
	t.Helper()
	if got, err := p.get(d); err != nil || !got.same(want) {
		t.Fatalf("read %+v, %v; want %+v", got, err, want)
	}
	listed := 0
	err := p.each(func(found digest.Digest, got row) error {
		if listed++; found != d || !got.same(want) {
			t.Fatalf("listed %s: %+v, want %s: %+v", found, got, d, want)
		}
		return nil
	})
	if err != nil || listed != 1 {
		t.Fatalf("%d rows listed, %v", listed, err)
	}
	err = p.db.View(func(tx *bolt.Tx) error {
		g, err := readGraph(tx)
		if err == nil && (len(g.digests) != 1 || g.size[0] != want.Size || !g.used[0].Equal(want.Used)) {
			t.Fatalf("collections read %v: %v, %v", g.digests, g.size, g.used)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzLossRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if !p.plant(t, bucketLost, key, value) {
			return
		}
		loss := p.onlyLoss(t)
		if loss.Digest != digest.Digest(key) || loss.Size < 0 {
			t.Fatalf("accepted %+v", loss)
		}
		p.wantDigest(t, loss.Digest)
		p.update(t, func(tx *bolt.Tx) error { return putLoss(tx, loss) })
		again := p.onlyLoss(t)
		if !again.At.Equal(loss.At) {
			t.Fatalf("written again, it is of %v, not of %v", again.At, loss.At)
		}
		if again.At = loss.At; again != loss {
			t.Fatalf("written again, it is %+v, not %+v", again, loss)
		}
		if err := p.dropLosses([]digest.Digest{loss.Digest}); err != nil {
			t.Fatal(err)
		}
		if l, err := p.loadLosses(); err != nil || len(l.set) != 0 {
			t.Fatalf("forgotten, and there is still %v, %v", l, err)
		}
	})
}

func (p *planted) onlyLoss(t *testing.T) (loss Loss) {
	t.Helper()
	l, err := p.loadLosses()
	if err != nil || len(l.set) != 1 {
		t.Fatalf("losses %+v, %v", l, err)
	}
	for _, loss = range l.set {
	}
	return loss
}

func FuzzRefRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, key []byte) {
		if !p.plant(t, bucketRefs, key, nil) {
			return
		}
		parent, child := splitRefKey(key)
		p.wantDigest(t, parent)
		p.wantDigest(t, child)
		if again := refKey(parent, child); !bytes.Equal(again, key) {
			t.Fatalf("%q is read as %s and %s, which are written as %q", key, parent, child, again)
		}
		p.wantEdge(t, parent, child)
		p.update(t, func(tx *bolt.Tx) error { return putRefs(tx, parent, []digest.Digest{child}) })
		p.wantEdge(t, parent, child)
		p.update(t, func(tx *bolt.Tx) error { return dropRefs(tx, parent) })
		if k := p.firstEdge(t); k != nil {
			t.Fatalf("%q is left when the edges of its parent are dropped", k)
		}
	})
}

// wantEdge wants exactly this edge, whichever way it is read.
func (p *planted) wantEdge(t *testing.T, parent, child digest.Digest) {
	t.Helper()
	err := p.db.View(func(tx *bolt.Tx) error {
		if refs := refsOf(tx, parent); len(refs) != 1 || refs[0] != child {
			t.Fatalf("%s refers to %v, want %s", parent, refs, child)
		}
		g, err := readGraph(tx)
		if err != nil {
			return err
		}
		if !g.closure([]digest.Digest{parent})[g.ids[child]] {
			t.Fatalf("%s does not reach %s", parent, child)
		}
		_ = g.tops() // a blob may refer to itself
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (p *planted) firstEdge(t *testing.T) (key []byte) {
	t.Helper()
	err := p.db.View(func(tx *bolt.Tx) error {
		k, _ := tx.Bucket(bucketRefs).Cursor().First()
		key = bytes.Clone(k)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func FuzzRootRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, name, value []byte) {
		if !p.plant(t, bucketRoots, name, value) {
			return
		}
		s := &Store{index: p.index}
		for range 2 {
			roots, err := s.Roots()
			d, ok := roots[string(name)]
			if err != nil || len(roots) != 1 || !ok || d != digest.Digest(value) {
				t.Fatalf("roots %v, %v", roots, err)
			}
			p.wantDigest(t, d)
			if err := s.SetRoot(string(name), d); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.DeleteRoot(string(name)); err != nil {
			t.Fatal(err)
		}
		if roots, err := s.Roots(); err != nil || len(roots) != 0 {
			t.Fatalf("deleted, and there is still %v, %v", roots, err)
		}
	})
}

// Whatever the schema and the epoch are said to be, the index is opened, made
// anew, or refused as that of a later version.
func FuzzMetaRows(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, version, epoch, stopped []byte) {
		p.update(t, func(tx *bolt.Tx) error {
			meta := tx.Bucket(bucketMeta)
			return errors.Join(meta.Put(keySchema, version), meta.Put(keyEpoch, epoch), meta.Put(keyStopped, stopped))
		})
		err := p.db.Update(prepareIndex)
		if errors.As(err, new(*boltfile.Damage)) || errors.Is(err, ErrNewer) {
			return
		}
		if err != nil {
			t.Fatalf("refused with %v, for which nothing is made anew", err)
		}
		if err := p.begin(); err != nil {
			t.Fatalf("accepted, and then: %v", err)
		}
		before := p.epoch
		if err := p.begin(); err != nil || p.epoch <= before { // it was not stopped
			t.Fatalf("epoch %d after %d, %v", p.epoch, before, err)
		}
	})
}
