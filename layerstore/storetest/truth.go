package storetest

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing/synctest"

	"github.com/imagecache/imagecache/layerstore"
)

var truthTests = []test{
	{"the last byte is withheld until the blob is proven", lastByteWithheld},
	{"a wrong last byte completes for nobody and is not kept", wrongLastByte},
	{"another blob completes for nobody and is not kept", anotherBlob},
	{"an empty answer for a blob that is not empty opens no reader", emptyAnswer},
	{"a blob cut short by a source that tells no size is refused", cutWithoutSize},
	{"another size than the descriptor's is refused", wrongSize},
	{"a reader that sought ahead and back is held too", soughtBack},
	{"ensure does not return for a wrong blob", ensureWrong},
	{"put refuses content that does not hash to its digest", putWrong},
}

func lastByteWithheld(h *house) {
	content, desc := blob(2 * mib)
	last := int64(len(content)) - 1
	hold := make(chan struct{})
	src := Always(content, Answer{HoldAt: last, Hold: hold})
	b, given := h.fetch(desc, src), new(bytes.Buffer)
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(given, b)
		done <- err
	}()
	synctest.Wait()
	if int64(given.Len()) != last {
		h.Errorf("%d bytes were given while the last was missing, want %d", given.Len(), last)
	}
	close(hold)
	h.must(<-done)
	if !bytes.Equal(given.Bytes(), content) {
		h.Error("wrong bytes")
	}
}

// flipped is content with its last byte wrong.
func flipped(content []byte) []byte {
	wrong := bytes.Clone(content)
	wrong[len(wrong)-1] ^= 1
	return wrong
}

func wrongLastByte(h *house) {
	content, desc := blob(2 * mib)
	hold := make(chan struct{})
	src := Answers(content, Answer{Content: flipped(content), HoldAt: mib, Hold: hold})
	var readers sync.WaitGroup
	for range 8 {
		b := h.fetch(desc, src)
		readers.Go(func() {
			var wrong *layerstore.DigestError
			if n, err := io.Copy(io.Discard, b); !errors.As(err, &wrong) || n >= b.Size() {
				h.Errorf("%d of %d bytes, error %v; want a digest error", n, b.Size(), err)
			}
		})
	}
	close(hold)
	readers.Wait()
	h.wantAbsent(desc.Digest)
	h.wantRequests(src, Request{0, -1})
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1}, Request{0, -1})
	synctest.Wait()
	h.wantHit(desc, content)
}

func anotherBlob(h *house) {
	content, desc := blob(2 * mib)
	other := bytes.Repeat([]byte{7}, len(content))
	var wrong *layerstore.DigestError
	err := h.wantRefused(desc, NewSource(other))
	if !errors.As(err, &wrong) || wrong.Want != desc.Digest || wrong.Got != describe(other).Digest {
		h.Errorf("error %v", err)
	}
	h.wantAbsent(desc.Digest)
	h.wantAbsent(describe(other).Digest)
}

// An answer without a body cannot be cut, so nobody may see one before it is
// proven.
func emptyAnswer(h *house) {
	_, desc := blob(1)
	desc.Size = -1
	for _, noSize := range []bool{false, true} {
		hold := make(chan struct{})
		src := Always(nil, Answer{NoSize: noSize, HoldAt: AtStart, Hold: hold})
		fetched := make(chan error, 1)
		go func() {
			b, err := h.store.Fetch(h.Context(), desc, src)
			if err == nil {
				b.Close()
			}
			fetched <- err
		}()
		synctest.Wait()
		if len(fetched) > 0 {
			h.Error("a reader was opened before the blob was proven")
		}
		close(hold)
		var wrong *layerstore.DigestError
		if err := <-fetched; !errors.As(err, &wrong) {
			h.Errorf("error %v, want a digest error", err)
		}
	}
	h.wantAbsent(desc.Digest)
}

func cutWithoutSize(h *house) {
	content, desc := blob(2 * mib)
	desc.Size = 0
	src := Always(content, Answer{NoSize: true, Short: mib})
	var wrong *layerstore.DigestError
	if err := h.wantRefused(desc, src); !errors.As(err, &wrong) {
		h.Errorf("error %v, want a digest error", err)
	}
	h.wantAbsent(desc.Digest)
}

func wrongSize(h *house) {
	content, desc := blob(mib)
	for _, announced := range []int64{desc.Size - 1, desc.Size + 1} {
		_, err := h.store.Fetch(h.Context(), desc, Always(content, Answer{Size: announced}))
		var size *layerstore.SizeError
		if !errors.As(err, &size) || size.Want != desc.Size || size.Got != announced {
			h.Errorf("announced %d: %v, want a size error", announced, err)
		}
	}
	h.wantAbsent(desc.Digest)
	h.wantWhole(h.fetch(desc, NewSource(content)), content)
}

func soughtBack(h *house) {
	content, desc := blob(12 * mib)
	hold := make(chan struct{})
	src := Always(flipped(content), Answer{HoldAt: 1, Hold: hold})
	b := h.fetch(desc, src)
	_, err := b.Seek(11*mib, io.SeekStart)
	h.must(err)
	_, err = b.Seek(0, io.SeekStart)
	h.must(err)
	close(hold)
	h.wantCut(b)
}

func ensureWrong(h *house) {
	content, desc := blob(mib)
	var wrong *layerstore.DigestError
	if err := h.store.Ensure(h.Context(), desc, NewSource(flipped(content)), nil); !errors.As(err, &wrong) {
		h.Errorf("error %v, want a digest error", err)
	}
	h.wantAbsent(desc.Digest)
}

func putWrong(h *house) {
	content, desc := blob(100)
	var wrong *layerstore.DigestError
	if err := h.store.Put(h.Context(), desc, flipped(content)); !errors.As(err, &wrong) {
		h.Errorf("error %v, want a digest error", err)
	}
	h.wantAbsent(desc.Digest)
}
