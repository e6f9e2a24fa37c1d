package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing/synctest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

const mib = 1 << 20

var fetchTests = []test{
	{"a first reader misses, a second joins, a later one hits", missJoinHit},
	{"many followers get true bytes and the source is asked once", manyFollowers},
	{"a late joiner gets the blob from its start", lateJoiner},
	{"the flight goes on when all readers have left", readersLeave},
	{"the end of a reader's context ends only its own waiting", readerContext},
	{"a size that nobody announces is known at the end", unknownSize},
	{"a size that only the descriptor tells will do", sizeFromDescriptor},
	{"an empty blob", emptyBlob},
	{"sha512", sha512Blob},
	{"without a source only what is here or under way is found", noSource},
	{"bad digests are refused", badDigests},
	{"seek, read at and run give the same bytes", seekReadAtRun},
	{"a body is closed when it was read", bodiesClosed},
}

func missJoinHit(h *house) {
	content, desc := blob(2 * mib)
	hold := make(chan struct{})
	src, other := Always(content, Answer{HoldAt: mib, Hold: hold}), NewSource(content)
	first := h.fetch(desc, src)
	second := h.fetch(desc, other)
	close(hold)
	h.wantWhole(first, content)
	h.wantWhole(second, content)
	synctest.Wait()
	third := h.fetch(desc, other)
	h.wantWhole(third, content)
	got := []layerstore.Outcome{first.Outcome(), second.Outcome(), third.Outcome()}
	want := []layerstore.Outcome{layerstore.Miss, layerstore.Joined, layerstore.Hit}
	for i := range want {
		if got[i] != want[i] {
			h.Errorf("outcomes %v, want %v", got, want)
		}
	}
	h.wantRequests(src, Request{0, -1})
	h.wantRequests(other)
	if first.Digest() != desc.Digest {
		h.Errorf("digest %s", first.Digest())
	}
}

func manyFollowers(h *house) {
	content, desc := blob(3*mib + 17)
	src := NewSource(content)
	var readers sync.WaitGroup
	for range 50 {
		readers.Go(func() {
			b, err := h.store.Fetch(h.Context(), desc, src)
			if err != nil {
				h.Error(err)
				return
			}
			defer b.Close()
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, content) {
				h.Errorf("%d bytes, error %v", len(got), err)
			}
		})
	}
	readers.Wait()
	h.wantRequests(src, Request{0, -1})
	if src.Sent() != int64(len(content)) {
		h.Errorf("the source sent %d bytes of %d", src.Sent(), len(content))
	}
}

func lateJoiner(h *house) {
	content, desc := blob(2 * mib)
	hold := make(chan struct{})
	src := Always(content, Answer{HoldAt: int64(len(content)) - 1, Hold: hold})
	h.fetch(desc, src)
	synctest.Wait()
	late := h.fetch(desc, src)
	if late.Outcome() != layerstore.Joined {
		h.Errorf("outcome %v", late.Outcome())
	}
	close(hold)
	h.wantWhole(late, content)
	h.wantRequests(src, Request{0, -1})
}

func readersLeave(h *house) {
	content, desc := blob(2 * mib)
	hold := make(chan struct{})
	src := Always(content, Answer{HoldAt: mib, Hold: hold})
	ctx, cancel := context.WithCancel(h.Context())
	b, err := h.store.Fetch(ctx, desc, src)
	h.must(err)
	b.Close()
	cancel()
	close(hold)
	synctest.Wait()
	h.wantHit(desc, content)
	h.wantRequests(src, Request{0, -1})
}

func readerContext(h *house) {
	content, desc := blob(2 * mib)
	hold := make(chan struct{})
	src := Always(content, Answer{HoldAt: mib, Hold: hold})
	gone := errors.New("the client is gone")
	ctx, cancel := context.WithCancelCause(h.Context())
	leaver, err := h.store.Fetch(ctx, desc, src)
	h.must(err)
	defer leaver.Close()
	stayer := h.fetch(desc, src)
	left := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, leaver)
		left <- err
	}()
	synctest.Wait()
	cancel(gone)
	if err := <-left; !errors.Is(err, gone) {
		h.Errorf("the leaver got %v, want its context's cause", err)
	}
	if _, err := h.store.Fetch(ctx, describe([]byte("never asked")), Always(nil, Answer{Err: io.ErrNoProgress})); !errors.Is(err, gone) {
		h.Errorf("fetch with an ended context: %v", err)
	}
	close(hold)
	h.wantWhole(stayer, content)
}

func unknownSize(h *house) {
	content, desc := blob(mib + 3)
	desc.Size = -1
	hold := make(chan struct{})
	src := Always(content, Answer{NoSize: true, HoldAt: mib, Hold: hold})
	fetched := make(chan *layerstore.Blob, 1)
	go func() {
		b, err := h.store.Fetch(h.Context(), desc, src)
		if err != nil {
			h.Error(err)
		}
		fetched <- b
	}()
	synctest.Wait()
	if len(fetched) > 0 {
		h.Error("fetch returned before the size was known")
	}
	close(hold)
	b := <-fetched
	defer b.Close()
	h.wantWhole(b, content)
}

func sizeFromDescriptor(h *house) {
	content, desc := blob(mib)
	b := h.fetch(desc, Always(content, Answer{NoSize: true}))
	h.wantWhole(b, content)
}

func emptyBlob(h *house) {
	for _, answer := range []Answer{{}, {NoSize: true}} {
		h.wantWhole(h.fetch(describe(nil), Always(nil, answer)), nil)
		synctest.Wait()
		h.wantHit(describe(nil), nil)
		_, err := h.store.Remove([]digest.Digest{digest.FromBytes(nil)}, nil)
		h.must(err)
	}
}

func sha512Blob(h *house) {
	content, desc := blob(2 * mib)
	desc.Digest = digest.SHA512.FromBytes(content)
	h.must(h.store.Ensure(h.Context(), desc, NewSource(content), nil))
	h.wantHit(desc, content)
	wrong := desc
	wrong.Digest = digest.SHA512.FromString("something else")
	var mismatch *layerstore.DigestError
	if err := h.wantRefused(wrong, NewSource(content)); !errors.As(err, &mismatch) {
		h.Errorf("error %v, want a digest error", err)
	}
}

func noSource(h *house) {
	content, desc := blob(mib)
	h.wantAbsent(desc.Digest)
	hold := make(chan struct{})
	h.fetch(desc, Always(content, Answer{HoldAt: 10, Hold: hold}))
	b := h.fetch(desc, nil)
	if b.Outcome() != layerstore.Joined {
		h.Errorf("outcome %v", b.Outcome())
	}
	close(hold)
	h.wantWhole(b, content)
}

func badDigests(h *house) {
	src := NewSource([]byte("x"))
	for _, d := range []digest.Digest{
		"", "sha256", "sha256:", "sha256:abc", "sha256:../../etc/passwd", "md5:d41d8cd98f00b204e9800998ecf8427e",
		digest.Digest("sha256:" + string(bytes.Repeat([]byte("G"), 64))),
		digest.SHA384.FromString("not registered"),
		digest.Digest("SHA256:" + digest.FromString("x").Encoded()),
	} {
		desc := specs.Descriptor{Digest: d, Size: 1}
		if _, err := h.store.Fetch(h.Context(), desc, src); err == nil {
			h.Errorf("fetch of %q: no error", d)
		}
		if err := h.store.Ensure(h.Context(), desc, src, nil); err == nil {
			h.Errorf("ensure of %q: no error", d)
		}
		if err := h.store.Put(h.Context(), desc, []byte("x")); err == nil {
			h.Errorf("put of %q: no error", d)
		}
		if _, err := h.store.ReadAll(d, 10); err == nil {
			h.Errorf("read of %q: no error", d)
		}
	}
	h.wantRequests(src)
}

func seekReadAtRun(h *house) {
	content, desc := blob(mib)
	for range 2 { // in flight, then sealed
		b := h.fetch(desc, NewSource(content))
		tail := make([]byte, 100)
		n, err := b.ReadAt(tail, int64(len(content))-50)
		if n != 50 || err != io.EOF || !bytes.Equal(tail[:50], content[len(content)-50:]) {
			h.Errorf("read at the end: %d, %v", n, err)
		}
		if at, err := b.Seek(-10, io.SeekEnd); at != b.Size()-10 || err != nil {
			h.Errorf("seek: %d, %v", at, err)
		}
		file, ready, err := b.Run(100)
		h.must(err)
		got, err := io.ReadAll(io.LimitReader(file, ready))
		h.must(err)
		b.Advance(ready)
		if !bytes.Equal(got, content[len(content)-10:]) {
			h.Error("run gave wrong bytes")
		}
		if _, _, err := b.Run(1); err != io.EOF {
			h.Errorf("run at the end: %v", err)
		}
		if _, err := b.Seek(-1, io.SeekStart); err == nil {
			h.Error("seek before the start: no error")
		}
		_, err = b.Seek(0, io.SeekStart)
		h.must(err)
		h.wantWhole(b, content)
		synctest.Wait()
	}
}

func bodiesClosed(h *house) {
	content, desc := blob(mib)
	src := Answers(content, Answer{Break: 100}, Answer{Short: 200}, Answer{HoldAt: 300})
	h.must(h.store.Ensure(h.Context(), desc, src, nil))
	if n := src.OpenBodies(); n != 0 {
		h.Errorf("%d bodies were not closed", n)
	}
}
