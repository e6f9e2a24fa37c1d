package storetest

import (
	"bytes"
	"io"
	"testing/synctest"

	"github.com/imagecache/imagecache/layerstore"
)

var rangeTests = []test{
	{"the tail of a cold blob is fetched before the rest", tailFirst},
	{"one far range after another is fetched before the rest", rangesInTurn},
	{"a range just ahead is waited for", justAhead},
	{"far ranges change nothing for a source that ignores them", farWithoutRanges},
	{"a failing range on the side leaves the transfer alone", sideFails},
}

const (
	whole = 24 * mib
	piece = 100
)

// held is a source whose plain answer stops at 1 MiB until release is called;
// ranges are answered as told.
func held(content []byte, ranges Answer) (src *Source, release func()) {
	hold := make(chan struct{})
	src = &Source{Content: content, Script: func(_ int, r Request) Answer {
		if r.Offset == 0 {
			return Answer{HoldAt: mib, Hold: hold, Whole: ranges.Whole}
		}
		return ranges
	}}
	return src, func() { close(hold) }
}

func (h *house) wantPiece(b *layerstore.Blob, content []byte, at int64) {
	h.Helper()
	_, err := b.Seek(at, io.SeekStart)
	h.must(err)
	got := make([]byte, min(piece, int64(len(content))-at))
	if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, content[at:][:len(got)]) {
		h.Fatalf("bytes at %d: error %v", at, err)
	}
}

func (h *house) wantOnce(src *Source, size int64) {
	h.Helper()
	// What a transfer has read of a stretch that another one claimed
	// meanwhile is at most one chunk.
	if extra := src.Sent() - size; extra < 0 || extra > mib {
		h.Errorf("the source sent %d bytes for a blob of %d", src.Sent(), size)
	}
}

func tailFirst(h *house) {
	content, desc := blob(whole)
	src, release := held(content, Answer{})
	b := h.fetch(desc, src)
	h.wantPiece(b, content, whole-piece) // to the last byte: it completes nothing
	if got := src.Requests(); len(got) != 2 || got[1].Offset != whole-piece {
		h.Errorf("the source was asked %v", got)
	}
	release()
	_, err := b.Seek(0, io.SeekStart)
	h.must(err)
	h.wantWhole(b, content)
	h.wantOnce(src, whole)
}

func rangesInTurn(h *house) {
	content, desc := blob(whole)
	src, release := held(content, Answer{})
	b := h.fetch(desc, src)
	for _, at := range []int64{8 * mib, 16 * mib, 16*mib + 300<<10, 12 * mib, 22 * mib} {
		h.wantPiece(b, content, at)
	}
	release()
	h.wantWhole(h.fetch(desc, src), content)
	h.wantOnce(src, whole)
}

func justAhead(h *house) {
	content, desc := blob(whole)
	src, release := held(content, Answer{})
	b := h.fetch(desc, src)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.wantPiece(b, content, 2*mib)
	}()
	synctest.Wait()
	h.wantRequests(src, Request{0, -1})
	release()
	<-done
}

func farWithoutRanges(h *house) {
	content, desc := blob(whole)
	src, release := held(content, Answer{Whole: true})
	b := h.fetch(desc, src)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.wantPiece(b, content, 20*mib)
	}()
	synctest.Wait()
	release()
	<-done
	h.wantWhole(h.fetch(desc, src), content)
	h.wantOnce(src, whole)
}

func sideFails(h *house) {
	content, desc := blob(whole)
	src, release := held(content, Answer{Err: errPassing})
	b := h.fetch(desc, src)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.wantPiece(b, content, 20*mib)
	}()
	synctest.Wait()
	if n := len(src.Requests()); n != 2 {
		h.Errorf("%d requests while the transfer went on, want 2", n)
	}
	release()
	<-done
	h.wantWhole(h.fetch(desc, src), content)
	h.wantOnce(src, whole)
}
