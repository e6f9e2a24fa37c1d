package storetest

import (
	"errors"
	"maps"
	"testing/synctest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
)

var restartTests = []test{
	{"sealed blobs, edges and roots are there again", sealedStay},
	{"ensured and put blobs outlive a crash", durableStay},
	{"a transfer that close cut goes on with the rest", partialGoesOn},
	{"a transfer that a crash cut goes on with the rest", partialOutlivesCrash},
	{"a wrong blob is thrown away, whichever process began it", wrongAcrossRestart},
	{"a partial blob of another size is begun anew", otherSizeAnew},
	{"gaps of a partial blob are asked for, and nothing else", gapsAsked},
}

func sealedStay(h *house) {
	content, desc := blob(2 * mib)
	h.wantWhole(h.fetch(desc, NewSource(content)), content)
	parent := h.put("parent", desc.Digest)
	h.must(h.store.SetRoot("pin", parent))
	h.restart()
	h.wantHit(desc, content)
	info, err := h.store.Stat(parent)
	if err != nil || info.MediaType == "" {
		h.Errorf("stat %+v, %v", info, err)
	}
	reached, err := h.store.Closure(parent)
	if err != nil || !maps.Equal(reached, map[digest.Digest]bool{parent: true, desc.Digest: true}) {
		h.Errorf("closure %v, %v", reached, err)
	}
	roots, err := h.store.Roots()
	if err != nil || roots["pin"] != parent {
		h.Errorf("roots %v, %v", roots, err)
	}
}

func durableStay(h *house) {
	content, desc := blob(2 * mib)
	h.must(h.store.Ensure(h.Context(), desc, NewSource(content), nil))
	parent := h.put("parent", desc.Digest)
	h.must(h.store.SetRoot("pin", parent))
	h.cut()
	h.wantHit(desc, content)
	if !h.has(parent) {
		h.Error("a put blob is gone")
	}
	roots, err := h.store.Roots()
	if err != nil || roots["pin"] != parent {
		h.Errorf("roots %v, %v", roots, err)
	}
}

func partialGoesOn(h *house) {
	content, desc := blob(5 * mib)
	h.fetch(desc, Always(content, Answer{HoldAt: 3*mib + 7}))
	synctest.Wait()
	h.restart()
	h.wantAbsent(desc.Digest)
	src := NewSource(content)
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{3*mib + 7, 5 * mib})
}

func partialOutlivesCrash(h *house) {
	content, desc := blob(8 * mib)
	for _, hold := range []int64{3 * mib, 6 * mib} {
		src := Always(content, Answer{HoldAt: hold})
		h.fetch(desc, src)
		synctest.Wait()
		h.cut()
	}
	src := NewSource(content)
	h.wantWhole(h.fetch(desc, src), content)
	asked := src.Requests()
	if len(asked) != 1 || asked[0].Offset < 4*mib || asked[0].End != 8*mib {
		h.Errorf("the source was asked %v", asked)
	}
}

func wrongAcrossRestart(h *house) {
	content, desc := blob(5 * mib)
	h.fetch(desc, Always(flipped(content)[mib:], Answer{HoldAt: 3 * mib, Size: 5 * mib}))
	synctest.Wait()
	h.restart()
	var wrong *layerstore.DigestError
	if err := h.wantRefused(desc, NewSource(content)); !errors.As(err, &wrong) {
		h.Errorf("error %v", err)
	}
	h.wantAbsent(desc.Digest)
	h.wantWhole(h.fetch(desc, NewSource(content)), content)
}

func otherSizeAnew(h *house) {
	content, desc := blob(5 * mib)
	wrong := desc
	wrong.Size = 6 * mib
	h.fetch(wrong, Always(content, Answer{HoldAt: 3 * mib, Size: 6 * mib}))
	synctest.Wait()
	h.restart()
	src := NewSource(content)
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1})
}

func gapsAsked(h *house) {
	content, desc := blob(whole)
	src, _ := held(content, Answer{})
	b := h.fetch(desc, src)
	h.wantPiece(b, content, 12*mib)
	synctest.Wait()
	h.restart()
	src = NewSource(content)
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{mib, 12 * mib}, Request{12*mib + 256<<10, whole})
}
