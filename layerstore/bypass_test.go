package layerstore_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// block puts a folder where the partial file of a blob would be, so that the
// store cannot keep it, until unblock.
func block(t *testing.T, s *layerstore.Store, d digest.Digest) (unblock func()) {
	t.Helper()
	path := filepath.Join(s.Root(), "ingest", strings.ReplaceAll(d.String(), ":", "-")+".part")
	must(t, os.MkdirAll(filepath.Join(path, "in the way"), 0o700))
	return func() { must(t, os.RemoveAll(path)) }
}

// stallAfter is longer than a busy machine makes any source of a test silent.
const stallAfter = time.Minute

func openBlocked(t *testing.T, size int) (s *layerstore.Store, content []byte, desc specs.Descriptor) {
	t.Helper()
	s = open(t, layerstore.Options{Root: t.TempDir(), StallAfter: stallAfter})
	t.Cleanup(func() { s.Close() })
	content = random(size)
	desc = describe(content)
	block(t, s, desc.Digest)
	return s, content, desc
}

func fetch(t *testing.T, s *layerstore.Store, desc specs.Descriptor, src layerstore.Source) *layerstore.Blob {
	t.Helper()
	b, err := s.Fetch(t.Context(), desc, src)
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

func wantAsked(t *testing.T, src *storetest.Source, want ...storetest.Request) {
	t.Helper()
	got := src.Requests()
	if len(got) != len(want) {
		t.Fatalf("asked %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("asked %v, want %v", got, want)
		}
	}
}

// wantOpen waits until so many bodies are open: a flight closes its own after
// its followers have all bytes.
func wantOpen(t *testing.T, src *storetest.Source, want int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); src.OpenBodies() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bodies are open, want %d", src.OpenBodies(), want)
		}
	}
}

// wantCut reads a blob that must not be completed and gives the error.
func wantCut(t *testing.T, b *layerstore.Blob, left int) error {
	t.Helper()
	n, err := io.Copy(io.Discard, b)
	if err == nil || n >= int64(left) {
		t.Fatalf("%d of %d bytes were given, error %v", n, left, err)
	}
	if _, again := b.Read(make([]byte, 1)); again == nil || again == io.EOF {
		t.Errorf("after the error %v the reader says %v", err, again)
	}
	return err
}

func TestBlobThatCannotBeKeptGoesPastTheStore(t *testing.T) {
	s, content, desc := openBlocked(t, 3*mib)
	src := storetest.NewSource(content)
	wantBytes(t, s, desc, src, content, layerstore.Bypass)
	wantAsked(t, src, storetest.Request{Offset: 0, End: -1})
	if file, n, err := fetch(t, s, desc, src).Run(mib); file != nil || n != mib || err != nil {
		t.Errorf("run gives %v, %d, %v", file, n, err)
	}
	if src.Sent() != 3*mib {
		t.Errorf("the source sent %d bytes", src.Sent())
	}
	block(t, s, desc.Digest)()
	wantBytes(t, s, desc, src, content, layerstore.Miss)
	wantOpen(t, src, 1) // of the reader that only ran
}

func TestWrongBlobIsNotCompletedPastTheStore(t *testing.T) {
	s, content, desc := openBlocked(t, mib)
	wrong := bytes.Clone(content)
	wrong[7]++
	var bad *layerstore.DigestError
	if err := wantCut(t, fetch(t, s, desc, storetest.NewSource(wrong)), mib); !errors.As(err, &bad) {
		t.Errorf("cut by %v", err)
	}
	long := append(bytes.Clone(content), 0)
	var size *layerstore.SizeError
	if _, err := s.Fetch(t.Context(), desc, storetest.NewSource(long)); !errors.As(err, &size) {
		t.Errorf("a blob that is too long: %v", err)
	}
}

func TestEmptyBlobPastTheStore(t *testing.T) {
	s, _, _ := openBlocked(t, 1)
	empty := digest.FromBytes(nil)
	block(t, s, empty)
	wantBytes(t, s, specs.Descriptor{Digest: empty}, storetest.NewSource(nil), nil, layerstore.Bypass)
	desc := specs.Descriptor{Digest: digest.FromString("not empty")}
	block(t, s, desc.Digest)
	var bad *layerstore.DigestError
	if _, err := s.Fetch(t.Context(), desc, storetest.NewSource(nil)); !errors.As(err, &bad) {
		t.Errorf("an empty body for another digest: %v", err)
	}
}

func TestBlobOfUnknownSizePastTheStore(t *testing.T) {
	s, content, desc := openBlocked(t, mib)
	desc.Size = 0
	src := storetest.Always(content, storetest.Answer{NoSize: true})
	b := fetch(t, s, desc, src)
	if b.Size() != mib {
		t.Errorf("size %d", b.Size())
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
	wantAsked(t, src, storetest.Request{Offset: 0, End: -1}, storetest.Request{Offset: 0, End: -1})
}

func TestBreaksPastTheStoreAreAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where being silent for a minute takes no time
		s, content, desc := openBlocked(t, 3*mib)
		src := storetest.Answers(content,
			storetest.Answer{Err: errors.New("busy")},
			storetest.Answer{Break: mib},
			storetest.Answer{Short: 2 * mib},
			storetest.Answer{HoldAt: 2*mib + 5}, // silent
			storetest.Answer{Whole: true},
		)
		wantBytes(t, s, desc, src, content, layerstore.Bypass)
		wantAsked(t, src, storetest.Request{Offset: 0, End: -1}, storetest.Request{Offset: 0, End: -1},
			storetest.Request{Offset: mib, End: 3 * mib}, storetest.Request{Offset: 2 * mib, End: 3 * mib},
			storetest.Request{Offset: 2*mib + 5, End: 3 * mib})
	})
}

func TestRefusalPastTheStoreIsFinal(t *testing.T) {
	s, content, desc := openBlocked(t, mib)
	refusal := storetest.Refusal{Text: "no such blob"}
	src := storetest.Always(content, storetest.Answer{Err: refusal})
	if _, err := s.Fetch(t.Context(), desc, src); !errors.Is(err, refusal) {
		t.Errorf("error %v", err)
	}
	wantAsked(t, src, storetest.Request{Offset: 0, End: -1})
	var storage *layerstore.StorageError
	if _, err := s.Fetch(t.Context(), desc, nil); !errors.Is(err, layerstore.ErrNotFound) && !errors.As(err, &storage) {
		t.Errorf("without a source: %v", err)
	}
}

// A range that holds the last byte is proven, though what stands before it has
// to be fetched for that. One that does not completes nothing.
func TestRangesPastTheStore(t *testing.T) {
	const from = mib + 10
	s, content, desc := openBlocked(t, 2*mib)
	tail := storetest.NewSource(content)
	b := fetch(t, s, desc, tail)
	_, err := b.Seek(from, io.SeekStart)
	must(t, err)
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content[from:]) {
		t.Errorf("tail: %d bytes, error %v", len(got), err)
	}
	wantAsked(t, tail, storetest.Request{Offset: 0, End: -1}, storetest.Request{Offset: 0, End: -1})
	must(t, b.Close()) // its bytes would be shared

	wrong := bytes.Clone(content)
	wrong[3]++ // before the range
	b = fetch(t, s, desc, storetest.NewSource(wrong))
	_, err = b.Seek(from, io.SeekStart)
	must(t, err)
	wantCut(t, b, len(content)-from)

	middle := storetest.NewSource(content)
	b = fetch(t, s, desc, middle)
	_, err = b.Seek(from, io.SeekStart)
	must(t, err)
	b.Limit(1000)
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content[from:from+1000]) {
		t.Errorf("middle: %d bytes, error %v", len(got), err)
	}
	wantAsked(t, middle, storetest.Request{Offset: 0, End: -1}, storetest.Request{Offset: from, End: from + 1000})
}

// The reader was given the wrong beginning from the partial file. The right
// rest from elsewhere does not make it true.
func TestWrongBeginningIsNotCompletedByARightEnd(t *testing.T) {
	alone(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		defer limitFiles(t, 2*mib)()
		content := random(4 * mib)
		wrong := bytes.Clone(content)
		wrong[100]++
		b := fetch(t, s, describe(content), storetest.Answers(content, storetest.Answer{Content: wrong}))
		var bad *layerstore.DigestError
		if err := wantCut(t, b, len(content)); !errors.As(err, &bad) {
			t.Errorf("cut by %v", err)
		}
	})
}

// A reader of a blob that was proven and could not be sealed has all bytes in
// its own file: the source is not asked again.
func TestReaderOfABlobThatCouldNotBeSealed(t *testing.T) {
	s := open(t, layerstore.Options{Root: t.TempDir()})
	defer s.Close()
	content := random(2 * mib)
	desc := describe(content)
	hold := make(chan struct{})
	src := storetest.Always(content, storetest.Answer{HoldAt: mib, Hold: hold})
	b := fetch(t, s, desc, src)
	head := make([]byte, 1000)
	_, err := io.ReadFull(b, head)
	must(t, err)
	blobs := filepath.Join(s.Root(), "blobs")
	must(t, os.Rename(blobs, blobs+"-away"))
	close(hold)
	ends(t, s)
	rest, err := io.ReadAll(b)
	if got := append(head, rest...); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
	if b.Outcome() != layerstore.Bypass {
		t.Errorf("outcome %v", b.Outcome())
	}
	wantAsked(t, src, storetest.Request{Offset: 0, End: -1})
	must(t, os.Rename(blobs+"-away", blobs))
	wantBytes(t, s, desc, src, content, layerstore.Miss)
}

// A file that ends too early is found out by who sends it.
func TestSealedFileThatCannotBeReadGoesPastTheStore(t *testing.T) {
	s := open(t, layerstore.Options{Root: t.TempDir()})
	defer s.Close()
	content := random(2 * mib)
	desc := describe(content)
	must(t, s.Put(t.Context(), desc, content))
	src := storetest.NewSource(content)
	b := fetch(t, s, desc, src)
	must(t, os.Truncate(filepath.Join(s.Root(), "blobs", "sha256", desc.Digest.Encoded()), mib))
	file, n, err := b.Run(4 * mib)
	must(t, err)
	got, err := io.ReadAll(io.LimitReader(file, n))
	must(t, err)
	b.Advance(int64(len(got)))
	must(t, b.Bypass(syscall.EIO))
	rest, err := io.ReadAll(b)
	if got = append(got, rest...); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
	wantAsked(t, src, storetest.Request{Offset: mib, End: 2 * mib})
	small := []byte("small")
	must(t, s.Put(t.Context(), describe(small), small))
	if err := fetch(t, s, describe(small), nil).Bypass(syscall.EIO); !errors.Is(err, syscall.EIO) {
		t.Errorf("without a source: %v", err)
	}
}

// Who joined a flight with a source that has no right goes on with the flight's.
func TestFollowerWhoseOwnSourceRefuses(t *testing.T) {
	alone(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		defer limitFiles(t, 2*mib)()
		content := random(4 * mib)
		desc := describe(content)
		hold := make(chan struct{})
		src := storetest.Answers(content, storetest.Answer{HoldAt: mib, Hold: hold})
		fetch(t, s, desc, src)
		refusing := storetest.Always(nil, storetest.Answer{Err: storetest.Refusal{Text: "no"}})
		b, nobody := fetch(t, s, desc, refusing), fetch(t, s, desc, nil)
		close(hold)
		for _, b := range []*layerstore.Blob{b, nobody} {
			if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, error %v", len(got), err)
			}
		}
	})
}
