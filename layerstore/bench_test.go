package layerstore_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

func openB(b *testing.B) *layerstore.Store {
	b.Helper()
	s, err := layerstore.Open(layerstore.Options{Root: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkHit is the way from a digest to a descriptor ready for sendfile.
func BenchmarkHit(b *testing.B) {
	s := openB(b)
	content := random(mib)
	desc := describe(content)
	if err := s.Put(b.Context(), desc, content); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		blob, err := s.Fetch(b.Context(), desc, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, n, err := blob.Run(mib); n != mib || err != nil {
			b.Fatal(n, err)
		}
		blob.Close()
	}
}

// BenchmarkJoin is the same for a blob that is in flight.
func BenchmarkJoin(b *testing.B) {
	s := openB(b)
	content := random(2 * mib)
	desc := describe(content)
	first, err := s.Fetch(b.Context(), desc, held(content, mib))
	if err != nil {
		b.Fatal(err)
	}
	defer first.Close()
	if _, err := first.ReadAt(make([]byte, mib), 0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		blob, err := s.Fetch(b.Context(), desc, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, n, err := blob.Run(mib); n != mib || err != nil {
			b.Fatal(n, err)
		}
		blob.Close()
	}
}

// held is a source that sends bytes up to at, and never more: a body that went
// silent is asked for again from there, and is silent again.
func held(content []byte, at int64) *storetest.Source {
	return storetest.Always(content, storetest.Answer{HoldAt: at})
}

// BenchmarkCommit is a small blob made durable: two syncs and a row.
func BenchmarkCommit(b *testing.B) {
	s := openB(b)
	content := make([]byte, 4096)
	for i := uint64(0); b.Loop(); i++ {
		binary.BigEndian.PutUint64(content, i)
		if err := s.Put(b.Context(), describe(content), content); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommitTogether is the same for 64 blobs that finish together.
func BenchmarkCommitTogether(b *testing.B) {
	s := openB(b)
	b.SetParallelism(32) // times GOMAXPROCS
	next := make(chan uint64, 1)
	next <- 0
	b.RunParallel(func(pb *testing.PB) {
		content := make([]byte, 4096)
		for pb.Next() {
			n := <-next
			next <- n + 1
			binary.BigEndian.PutUint64(content, n)
			if err := s.Put(b.Context(), describe(content), content); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// crowd is an open store of the 10,000 blobs of a town, and their digests.
func crowd(b *testing.B) (*layerstore.Store, []digest.Digest) {
	b.Helper()
	s, err := layerstore.Open(layerstore.Options{Root: town(b), TouchEvery: time.Hour, ScrubRate: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	var digests []digest.Digest
	err = s.Each(func(i layerstore.Info) error { digests = append(digests, i.Digest); return nil })
	if err != nil {
		b.Fatal(err)
	}
	return s, digests
}

// BenchmarkTouch is a million uses of 10,000 blobs; then, by itself, the close,
// of which most is their times written in one batch.
func BenchmarkTouch(b *testing.B) {
	const uses = 1_000_000
	s, digests := crowd(b)
	for b.Loop() {
		for n := range uses {
			s.Touch(digests[n%len(digests)])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/uses, "ns/use")
	began := time.Now()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-to-close")
}

// BenchmarkHitAmongMany is BenchmarkHit where each hit is of another blob.
func BenchmarkHitAmongMany(b *testing.B) {
	s, digests := crowd(b)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		blob, err := s.Fetch(b.Context(), specs.Descriptor{Digest: digests[n%len(digests)]}, nil)
		if err != nil {
			b.Fatal(err)
		}
		blob.Close()
	}
}
