package registry

import (
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// What stands in a row of registry.db may be anything: bolt has no checksums.
// A row is refused at the start, and with it the file, which is made anew; or
// it can be used by all that reads it, and is written as it was read.

// planted is a registry.db in which one row after the other is planted.
type planted struct{ *state }

func newPlanted(f *testing.F) *planted {
	f.Helper()
	s, err := openState(filepath.Join(f.TempDir(), "registry.db"), slog.New(slog.DiscardHandler), func() (rescued, error) { return rescued{}, nil })
	if err != nil {
		f.Fatal(err)
	}
	s.db.DB().NoSync = true // it has to survive nothing
	f.Cleanup(func() { s.db.Close() })
	return &planted{s}
}

// plant makes a row the only one of its bucket, and reports whether a start
// would go on with it.
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

// only is the one row of a bucket, as everything that goes through it reads it.
func only[Row any](t *testing.T, p *planted, bucket []byte, key string) (row Row) {
	t.Helper()
	rows := 0
	err := each(p.state, bucket, func(found string, r Row) error {
		if rows++; found != key {
			t.Fatalf("row %q is read as that of %q", key, found)
		}
		row = r
		return nil
	})
	if err != nil || rows != 1 {
		t.Fatalf("%d rows, %v", rows, err)
	}
	return row
}

// wantDigest wants what was read as a digest to be one: of another nothing can
// be asked without a panic.
func wantDigest(t *testing.T, d digest.Digest) {
	t.Helper()
	if err := d.Validate(); err != nil {
		t.Fatalf("accepted %q: %v", d, err)
	}
}

func sameTag(r, o tagRow) bool {
	at := r.Checked.Equal(o.Checked)
	o.Checked = r.Checked // but for the zone it is in
	return at && r == o
}

func samePin(r, o pinRow) bool {
	at := r.At.Equal(o.At)
	o.At = r.At
	return at && reflect.DeepEqual(r, o)
}

func samePast(r, o pastRow) bool {
	at := r.From.Equal(o.From) && r.Until.Equal(o.Until)
	o.From, o.Until = r.From, r.Until
	return at && reflect.DeepEqual(r, o)
}

func FuzzTagRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if !p.plant(t, bucketTags, key, value) {
			return
		}
		row, err := p.tag(string(key))
		if err != nil || !sameTag(row, only[tagRow](t, p, bucketTags, string(key))) {
			t.Fatalf("read %+v, %v", row, err)
		}
		wantDigest(t, row.Digest)
		p.update(t, func(tx *bolt.Tx) error { return put(tx, bucketTags, string(key), row) })
		if again, err := p.tag(string(key)); err != nil || !sameTag(row, again) {
			t.Fatalf("read %+v, and when that was written %+v, %v", row, again, err)
		}
	})
}

func FuzzPinRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if !p.plant(t, bucketPins, key, value) {
			return
		}
		row := only[pinRow](t, p, bucketPins, string(key))
		wantDigest(t, row.Digest)
		p.update(t, func(tx *bolt.Tx) error { return put(tx, bucketPins, string(key), row) })
		if again := only[pinRow](t, p, bucketPins, string(key)); !samePin(row, again) {
			t.Fatalf("read %+v, and when that was written %+v", row, again)
		}
	})
}

func FuzzHistoryRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if !p.plant(t, bucketHistory, key, value) {
			return
		}
		past := p.past(t, string(key))
		for _, row := range past {
			wantDigest(t, row.Digest)
		}
		p.update(t, func(tx *bolt.Tx) error { return putHistory(tx, string(key), past) })
		if again := p.past(t, string(key)); !slices.EqualFunc(again, past, samePast) {
			t.Fatalf("read %+v, and when that was written %+v", past, again)
		}
	})
}

func (p *planted) past(t *testing.T, key string) (past []pastRow) {
	t.Helper()
	p.update(t, func(tx *bolt.Tx) (err error) {
		past, err = historyIn(tx, key)
		return err
	})
	return past
}

func FuzzHomeRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if !p.plant(t, bucketHome, key, value) {
			return
		}
		row := only[homeRow](t, p, bucketHome, string(key))
		ref, err := ParseReference(string(key))
		if err != nil || ref.String() != string(key) {
			t.Fatalf("accepted %q, which is read as %s, %v", key, ref, err)
		}
		if ref.Digest == "" {
			t.Fatalf("accepted %q, by which nothing can be kept", key)
		}
		r := &Registry{state: p.state}
		h := &home{r: r}
		if got, err := h.row(ref.Repository, ref.Digest); err != nil || got != row {
			t.Fatalf("read %+v, %v, and listed %+v", got, err, row)
		}
		p.update(t, func(tx *bolt.Tx) error { return put(tx, bucketHome, string(key), row) })
		pushed := 0
		err = r.eachPushed(ref.Repository, func(d digest.Digest, again homeRow) error {
			if pushed++; d != ref.Digest || again != row {
				t.Fatalf("read %+v, and when that was written %s: %+v", row, d, again)
			}
			return nil
		})
		if names, nerr := r.Catalog(t.Context()); err != nil || nerr != nil || pushed != 1 || len(names) != 1 || names[0] != ref.Repository.String() {
			t.Fatalf("%d rows are listed, in %q: %v, %v", pushed, names, err, nerr)
		}
	})
}

// The chains of an image are learned from its manifest again: a row that cannot
// be read is an error of the one who asks for it, and never a panic.
func FuzzRootFSRow(f *testing.F) {
	p := newPlanted(f)
	chain := digest.FromString("chain")
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if !p.plant(t, bucketRootFS, key, value) {
			return
		}
		manifest := digest.Digest(key)
		p.update(t, func(tx *bolt.Tx) error {
			row, err := rootRowIn(tx, manifest)
			if err != nil {
				return nil
			}
			if err := put(tx, bucketRootFS, string(key), row); err != nil {
				return err
			}
			again, err := rootRowIn(tx, manifest)
			if err != nil || again.Repository != row.Repository || !slices.Equal(again.Chains, row.Chains) {
				t.Fatalf("read %+v, and when that was written %+v, %v", row, again, err)
			}
			return tx.Bucket(bucketChains).Put(chainKey(chain, manifest), nil)
		})
		r := &Registry{state: p.state, log: slog.New(slog.DiscardHandler)}
		for _, c := range r.candidates(chain) {
			wantDigest(t, c.manifest)
		}
		p.update(t, func(tx *bolt.Tx) error { return tx.Bucket(bucketChains).Delete(chainKey(chain, manifest)) })
	})
}

// Nothing becomes public by damage: whatever does not say that it is can be
// seen by those alone who have shown a right.
func FuzzHoldRow(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, repository string, value []byte) {
		ref, err := ParseReference(repository + "@" + digest.FromString("x").String())
		if err != nil {
			t.Skip("no repository")
		}
		in, d := ref.Repository, ref.Digest
		if !p.plant(t, bucketHolds, holdKey(in, d), value) {
			return
		}
		shown, err := lru.New[string, string](1)
		if err != nil {
			t.Fatal(err)
		}
		r := &Registry{state: p.state, shown: shown}
		public, private := string(value) == holdPublic, string(value) == holdPrivate
		if held, err := r.held(view{repository: in}, d); err != nil || held != public {
			t.Fatalf("by %q nobody in particular may see it: %v, %v", value, held, err)
		}
		if held, err := r.held(view{repository: in, open: true}, d); err != nil || !held && (public || private) {
			t.Fatalf("by %q who has shown a right may see it: %v, %v", value, held, err)
		}
		other := Repository{Registry: in.Registry, Path: in.Path + "x"}
		if how, err := p.hold(other, d); err != nil || how != "" {
			t.Fatalf("a row of %s tells of %s: %q, %v", in, other, how, err)
		}
		p.update(t, func(tx *bolt.Tx) error { return putHolds(tx, in, []digest.Digest{d}, false) })
		if how, err := p.hold(in, d); err != nil || (how == holdPublic) != public || how == "" {
			t.Fatalf("%q became %q, %v", value, how, err)
		}
	})
}

func FuzzGrantRow(f *testing.F) {
	p := newPlanted(f)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := Repository{Registry: "registry.test", Path: "team/app"}
	f.Fuzz(func(t *testing.T, id string, value []byte) {
		key := grantKey(id, in)
		if !p.plant(t, bucketGrants, []byte(key), value) {
			return
		}
		read := func() time.Time {
			at, err := p.grants(t, now).proven(id, in)
			if err != nil {
				t.Fatalf("accepted, and then: %v", err)
			}
			return at
		}
		if at, err := p.grants(t, now).proven(id, in); err != nil {
			p.wantNoGrant(t, at, id, in, now)
			return
		}
		at := read()
		p.update(t, func(tx *bolt.Tx) error { return put(tx, bucketGrants, key, grantRow{Proven: at}) })
		if again := read(); !again.Equal(at) {
			t.Fatalf("read %v, and when that was written %v", at, again)
		}
		g := p.grants(t, now)
		p.update(t, g.sweep)
		if swept, old := p.none(t, bucketGrants), now.Sub(at) > g.most; swept != old {
			t.Fatalf("a grant of %v is swept: %v", at, swept)
		}
		if err := g.put(id, in); err != nil || !read().Equal(now) {
			t.Fatalf("shown again, %v", err)
		}
		if had, err := g.drop(id, in); err != nil || !had || !read().IsZero() {
			t.Fatalf("taken back: %v, %v", had, err)
		}
	})
}

// wantNoGrant wants a row that cannot be read to be of no use, and to go: its
// caller shows the right again.
func (p *planted) wantNoGrant(t *testing.T, at time.Time, id string, in Repository, now time.Time) {
	t.Helper()
	g := p.grants(t, now)
	p.update(t, g.sweep)
	if !at.IsZero() || !p.none(t, bucketGrants) {
		t.Fatalf("a grant that cannot be read is of %v, and stays", at)
	}
	if err := g.put(id, in); err != nil {
		t.Fatal(err)
	}
	if at, err := p.grants(t, now).proven(id, in); err != nil || !at.Equal(now) {
		t.Fatalf("shown again, it is of %v, %v", at, err)
	}
}

// grants are those of a process that has just started.
func (p *planted) grants(t *testing.T, now time.Time) *grants {
	t.Helper()
	g, err := newGrants(p.db, func() time.Time { return now }, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (p *planted) none(t *testing.T, bucket []byte) (none bool) {
	t.Helper()
	p.update(t, func(tx *bolt.Tx) error {
		k, _ := tx.Bucket(bucket).Cursor().First()
		none = k == nil
		return nil
	})
	return none
}

// An index.json that somebody wrote gives a new registry.db rows that it can
// begin with.
func FuzzListedRows(f *testing.F) {
	p := newPlanted(f)
	f.Fuzz(func(t *testing.T, listed []byte) {
		var d specs.Descriptor
		if json.Unmarshal(listed, &d) != nil {
			return
		}
		found := rescued{tags: map[string]tagRow{}, pins: map[string]pinRow{}}
		found.take(d)
		p.update(t, func(tx *bolt.Tx) error {
			for _, bucket := range [][]byte{bucketTags, bucketPins} {
				if err := tx.DeleteBucket(bucket); err != nil {
					return err
				}
			}
			return errors.Join(prepareState(tx), found.write(tx), checkRows(tx))
		})
		for key, row := range found.tags {
			if again := only[tagRow](t, p, bucketTags, key); !sameTag(row, again) {
				t.Fatalf("listed %+v, and read as %+v", row, again)
			}
		}
		for key, row := range found.pins {
			if again := only[pinRow](t, p, bucketPins, key); !samePin(row, again) {
				t.Fatalf("listed %+v, and read as %+v", row, again)
			}
		}
	})
}
