package layerstore_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"
)

// actions are what may happen to a world; check runs after each.
func (w *world) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":             w.check,
		"fetch":        w.fetchWhole,
		"fetch again":  w.fetchWhole,
		"fetch range":  w.fetchRange,
		"fetch tail":   w.fetchTail,
		"leave":        w.leave,
		"go on":        w.goOn,
		"time passes":  w.timePasses,
		"put":          w.put,
		"root":         w.setRoot,
		"no root":      w.deleteRoot,
		"lease":        w.lease,
		"release":      w.release,
		"remove":       w.remove,
		"delete":       w.delete,
		"collect":      w.collect,
		"ingest":       w.ingest,
		"abort ingest": w.abortIngest,
		"restart":      w.restart,
		"crash":        w.crash,
		"rot":          w.rot,
		"rot, crash":   w.rotAndCrash,
		"vanish":       w.vanish,
	}
}

// misbehave tells the source of a blob how to answer the next few requests.
func (w *world) misbehave(t *rapid.T, s *subject) {
	if s.state == here {
		return
	}
	kinds := []string{"faithful", "break", "short", "stall", "hold", "ignore ranges", "lie", "size", "refuse"}
	var script []storetest.Answer
	for range rapid.IntRange(0, 2).Draw(t, "misbehaviours") {
		if s.size() < 2 {
			return
		}
		a := storetest.Answer{}
		at := rapid.Int64Range(1, s.size()-1).Draw(t, "at")
		switch rapid.SampledFrom(kinds).Draw(t, "kind") {
		case "break":
			a.Break = at
		case "short":
			a.Short = at
		case "stall":
			a.HoldAt = at
		case "hold":
			a.HoldAt, a.Hold = at, w.hold
		case "ignore ranges":
			a.Whole, a.Break = true, at
			s.budget += s.size()
		case "lie":
			a.Content = slices.Clone(s.content)
			a.Content[at] ^= 1
			w.fail(s)
		case "size":
			a.Size = s.size() + 1
			w.fail(s)
		case "refuse":
			a.Err = storetest.Refusal{Text: "403"}
			w.fail(s)
		}
		script = append(script, a)
	}
	s.tell(script...)
}

// fail is told that a transfer of s may fail, so that all of it comes again.
func (w *world) fail(s *subject) {
	w.excuse(s)
	s.budget += s.size()
}

func (w *world) fetchWhole(t *rapid.T) {
	s := w.drawBlob(t)
	w.misbehave(t, s)
	w.fetch(s, 0, s.size(), rapid.Bool().Draw(t, "pausing"))
}

func (w *world) fetchRange(t *rapid.T) {
	s := w.drawBlob(t)
	off := rapid.Int64Range(0, s.size()).Draw(t, "offset")
	n := rapid.Int64Range(0, s.size()-off).Draw(t, "length")
	w.misbehave(t, s)
	w.fetchPart(t, s, off, n)
}

// fetchTail reads the end of the largest blob, far ahead of a transfer.
func (w *world) fetchTail(t *rapid.T) {
	s := w.blobs[len(w.blobs)-1]
	n := rapid.Int64Range(1, 1<<20).Draw(t, "length")
	w.misbehave(t, s)
	w.fetchPart(t, s, s.size()-n, n)
}

func (w *world) fetchPart(t *rapid.T, s *subject, off, n int64) {
	if s.state != here {
		// What the transfer had read of a stretch that was taken from it.
		s.budget += 1 << 20
	}
	w.fetch(s, off, n, rapid.Bool().Draw(t, "pausing"))
}

func (w *world) leave(t *rapid.T) {
	if len(w.readers) == 0 {
		t.Skip("nobody reads")
	}
	r := w.readers[rapid.IntRange(0, len(w.readers)-1).Draw(t, "reader")]
	r.left = true
	r.leave()
}

// goOn ends all waiting of sources that hold and readers that pause.
func (w *world) goOn(*rapid.T) {
	close(w.hold)
	w.hold = make(chan struct{})
	for _, r := range w.readers {
		if r.goOn != nil && !r.told {
			close(r.goOn)
			r.told = true
		}
	}
}

// timePasses is long enough for every transfer to end.
func (w *world) timePasses(*rapid.T) {
	time.Sleep(minute)
	synctest.Wait()
	if n := w.store.Flights(); n > 0 {
		w.Fatalf("%d transfers did not end", n)
	}
}

// put keeps a blob, with references to blobs behind it: content cannot go round.
func (w *world) put(t *rapid.T) {
	s := w.drawBlob(t)
	var refs []digest.Digest
	for _, child := range w.blobs[s.n+1:] {
		if rapid.Bool().Draw(t, "refers") {
			refs = append(refs, child.desc.Digest)
			s.refs[child.n] = true
		}
	}
	w.must("put", w.store.Put(t.Context(), s.desc, s.content, refs...))
	s.seal()
}

func (w *world) setRoot(t *rapid.T) {
	s, name := w.drawBlob(t), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")
	w.must("set root", w.store.SetRoot(name, s.desc.Digest))
	w.roots[name] = s.n
}

func (w *world) deleteRoot(t *rapid.T) {
	name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")
	w.must("delete root", w.store.DeleteRoot(name))
	delete(w.roots, name)
}

func (w *world) lease(t *rapid.T) {
	s := w.drawBlob(t)
	if w.leases[s.n] == nil {
		w.leases[s.n] = w.store.Lease()
	}
	w.leases[s.n].Hold(s.desc.Digest)
}

func (w *world) release(t *rapid.T) {
	held := slices.Sorted(maps.Keys(w.leases))
	if len(held) == 0 {
		t.Skip("nothing is leased")
	}
	n := rapid.SampledFrom(held).Draw(t, "lease")
	w.leases[n].Release()
	delete(w.leases, n)
}

func (w *world) remove(t *rapid.T) {
	s := w.drawBlob(t)
	candidates := w.reach(s.n)
	holders := w.kept()
	for _, p := range w.blobs {
		if !candidates[p.n] && len(p.refs) > 0 {
			holders = append(holders, p.n)
		}
	}
	needed, doomed := w.reach(holders...), 0
	for n := range candidates {
		if b := w.blobs[n]; b.state == here && !needed[n] {
			b.refs = map[int]bool{}
			b.lose()
			doomed++
		}
	}
	freed, err := w.store.Remove([]digest.Digest{s.desc.Digest}, nil)
	w.must("remove", err)
	if freed.Blobs != doomed {
		w.Fatalf("%d blobs were removed, want %d", freed.Blobs, doomed)
	}
}

func (w *world) delete(t *rapid.T) {
	s := w.drawBlob(t)
	want := error(nil)
	switch {
	case s.state != here:
		want = layerstore.ErrNotFound
	case w.reach(w.kept()...)[s.n] || w.stands(s):
		want = layerstore.ErrNeeded
	}
	if err := w.store.Delete(s.desc.Digest); !errors.Is(err, want) {
		w.Fatalf("delete of blob %d: %v, want %v", s.n, err, want)
	}
	if want == nil {
		w.mu.Lock()
		w.gone = nil // told like an eviction, but it takes what is being read, too
		w.mu.Unlock()
		s.refs = map[int]bool{}
		s.lose()
	}
}

func (w *world) collect(t *rapid.T) {
	w.learnEvictions()
	c, err := w.store.Collect(t.Context(), layerstore.CollectOptions{Need: rapid.Int64Range(0, 12<<20).Draw(t, "need")})
	w.must("collect", err)
	w.mu.Lock()
	told := len(w.gone)
	w.mu.Unlock()
	if c.Blobs != told {
		w.Fatalf("the collection tells of %d blobs, %d went", c.Blobs, told)
	}
	w.learnLeftovers(c.Leftovers)
}

// learnLeftovers is told what went of transfers and ingests that were cut off.
func (w *world) learnLeftovers(left []layerstore.Leftover) {
	for _, s := range w.blobs {
		for _, l := range left {
			switch {
			case l.Kind == layerstore.LeftIngest && l.Name == fmt.Sprint(s.n):
				s.written = 0
			case l.Kind == layerstore.LeftPartial && l.Name == s.desc.Digest.String():
				s.budget += s.size() // what had come comes again
			}
		}
	}
}

// ingest writes a part of a blob under a name of its own, and commits it when
// it is whole. It survives everything that may happen between two parts.
func (w *world) ingest(t *rapid.T) {
	s := w.drawBlob(t)
	i, err := w.store.Ingest(fmt.Sprint(s.n), specs.Descriptor{Digest: s.desc.Digest})
	if s.state == here {
		if !errors.Is(err, layerstore.ErrExists) {
			w.Fatalf("ingest of blob %d, which is here: %v", s.n, err)
		}
		return
	}
	w.must("open ingest", err)
	if w.maxSize > 0 && i.Info().Offset == 0 {
		s.written = 0 // a collection that ran by itself may have taken it
	}
	if got := i.Info().Offset; got != s.written {
		w.Fatalf("ingest of blob %d goes on from %d, want %d", s.n, got, s.written)
	}
	n := rapid.Int64Range(0, s.size()-s.written).Draw(t, "bytes")
	if rapid.Bool().Draw(t, "all") {
		n = s.size() - s.written
	}
	_, err = i.Write(s.content[s.written : s.written+n])
	w.must("write", err)
	s.written += n
	if s.written < s.size() {
		w.must("close", i.Close())
		return
	}
	_, err = i.Commit(t.Context(), s.desc)
	w.must("commit", err)
	s.written = 0
	s.seal()
}

func (w *world) abortIngest(t *rapid.T) {
	s := w.drawBlob(t)
	name := fmt.Sprint(s.n)
	_, err := w.store.StatIngest(name)
	if aborted := w.store.AbortIngest(name); errors.Is(aborted, layerstore.ErrNotFound) != errors.Is(err, layerstore.ErrNotFound) {
		w.Fatalf("abort of ingest %s: %v, stat said %v", name, aborted, err)
	}
	s.written = 0
}

func (w *world) restart(*rapid.T) { w.reopen(w.store.Root()) }

func (w *world) crash(*rapid.T) {
	for _, s := range w.blobs {
		if s.flight {
			s.budget += 2 << 20 // what came since the last journal
		}
	}
	w.crashed()
}

// spoil changes the file of a blob that is here and that nobody reads.
func (w *world) spoil(t *rapid.T, change func(path string, s *subject) error) *subject {
	var candidates []int
	for _, s := range w.blobs {
		read := slices.ContainsFunc(w.readers, func(r *reader) bool { return r.of == s })
		if s.state == here && s.size() > 0 && !read {
			candidates = append(candidates, s.n)
		}
	}
	if len(candidates) == 0 {
		t.Skip("nothing to spoil")
	}
	s := w.blobs[rapid.SampledFrom(candidates).Draw(t, "blob")]
	w.must("spoil", change(blobPath(w.store.Root(), s.desc.Digest), s))
	return s
}

func (w *world) flip(t *rapid.T) *subject {
	return w.spoil(t, func(path string, s *subject) error {
		at := rapid.Int64Range(0, s.size()-1).Draw(t, "at")
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte{s.content[at] ^ 1}, at)
		return err
	})
}

// rot flips a byte on the disk, which a scrub finds.
func (w *world) rot(t *rapid.T) {
	s := w.flip(t)
	done, err := w.store.Scrub(t.Context(), layerstore.ScrubOptions{All: true})
	w.must("scrub", err)
	if len(done.Rotten) != 1 || done.Rotten[0] != s.desc.Digest {
		w.Fatalf("the scrub found %v, want blob %d", done.Rotten, s.n)
	}
	s.lose()
	s.lost = true
}

// rotAndCrash flips a byte on the disk before an unclean stop: whoever asks
// first is cut, or does not notice; the next gets the blob from its source.
func (w *world) rotAndCrash(t *rapid.T) {
	s := w.flip(t)
	s.lose()
	w.crash(t)
	s.state, s.flight = flying, true
	first := w.fetch(s, 0, s.size(), false)
	if rot := new(layerstore.RotError); first.done() && first.err != nil && !errors.As(first.err, &rot) {
		w.Fatalf("first reader of a rotten blob: %v", first.err)
	}
	first.excused = true
	if second := w.fetch(s, 0, s.size(), false); !second.done() || second.err != nil {
		w.Fatalf("second reader of a blob that was rotten: %v", second.err)
	}
}

// vanish takes a file away, or a part of it, while the store is closed.
func (w *world) vanish(t *rapid.T) {
	s := w.spoil(t, func(path string, s *subject) error {
		if rapid.Bool().Draw(t, "wholly") {
			return os.Remove(path)
		}
		return os.Truncate(path, s.size()-1)
	})
	w.restart(t)
	s.lose()
	s.lost = true
}
