package storetest

import (
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
)

var graphTests = []test{
	{"edges and roots are what was set", edgesAndRoots},
	{"a closure follows edges, whether blobs are here or not", closure},
	{"remove takes what only the removed needs", removeOnlyOf},
	{"remove keeps what a root, another parent or the caller keeps", removeKeeps},
	{"what was removed can be fetched anew", removedAnew},
}

// put keeps a blob named by its content, which refers to others.
func (h *house) put(name string, refs ...digest.Digest) digest.Digest {
	h.Helper()
	content, desc := manifest(name)
	h.must(h.store.Put(h.Context(), desc, content, refs...))
	return desc.Digest
}

func (h *house) has(d digest.Digest) bool {
	_, err := h.store.Stat(d)
	return err == nil
}

func edgesAndRoots(h *house) {
	a, b, c := h.put("a"), h.put("b"), digest.FromString("not here")
	h.must(h.store.SetRefs(a, []digest.Digest{b}))
	h.must(h.store.SetRefs(a, []digest.Digest{c, b}))
	refs, err := h.store.Refs(a)
	h.must(err)
	slices.Sort(refs)
	want := []digest.Digest{b, c}
	slices.Sort(want)
	if !slices.Equal(refs, want) {
		h.Errorf("refs %v, want %v", refs, want)
	}
	h.must(h.store.SetRoot("one", a))
	h.must(h.store.SetRoot("two", a))
	h.must(h.store.SetRoot("two", c))
	h.must(h.store.SetRoot("three", a))
	h.must(h.store.DeleteRoot("three"))
	h.must(h.store.DeleteRoot("never set"))
	h.must(h.store.SetRoot("four", c))
	h.must(h.store.ChangeRoots(map[string]digest.Digest{"five": a, "six": c}, []string{"four", "never set"}))
	h.must(h.store.ChangeRoots(nil, nil))
	roots, err := h.store.Roots()
	if err != nil || !maps.Equal(roots, map[string]digest.Digest{"one": a, "two": c, "five": a, "six": c}) {
		h.Errorf("roots %v, %v", roots, err)
	}
}

func closure(h *house) {
	leaf, away := h.put("leaf"), digest.FromString("away")
	middle := h.put("middle", leaf, away)
	top := h.put("top", middle)
	h.must(h.store.SetRefs(leaf, []digest.Digest{top})) // a cycle ends
	h.put("other")
	reached, err := h.store.Closure(middle)
	h.must(err)
	want := map[digest.Digest]bool{leaf: true, away: true, middle: true, top: true}
	if !maps.Equal(reached, want) {
		h.Errorf("closure %v, want %v", reached, want)
	}
}

func removeOnlyOf(h *house) {
	shared, own := h.put("shared layer"), h.put("own layer")
	first := h.put("first image", shared, own)
	second := h.put("second image", shared)
	freed, err := h.store.Remove([]digest.Digest{first}, nil)
	h.must(err)
	if freed.Blobs != 2 || freed.Bytes != int64(len("first image")+len("own layer")) {
		h.Errorf("freed %+v", freed)
	}
	h.wantAbsent(first)
	h.wantAbsent(own)
	if !h.has(shared) || !h.has(second) {
		h.Error("what another image needs was removed")
	}
	if refs, err := h.store.Refs(first); err != nil || len(refs) != 0 {
		h.Errorf("a removed parent refers to %v, %v", refs, err)
	}
}

func removeKeeps(h *house) {
	layers := []digest.Digest{h.put("layer 1"), h.put("layer 2"), h.put("layer 3")}
	pinned := h.put("pinned", layers[0])
	kept := h.put("kept", layers[1])
	top := h.put("top", append(layers, pinned, kept)...)
	h.must(h.store.SetRoot("pin", pinned))
	freed, err := h.store.Remove([]digest.Digest{top}, []digest.Digest{kept})
	h.must(err)
	if freed.Blobs != 2 {
		h.Errorf("freed %+v, want the top and the third layer", freed)
	}
	for _, d := range []digest.Digest{pinned, kept, layers[0], layers[1]} {
		if !h.has(d) {
			h.Errorf("%s was removed", d)
		}
	}
	h.must(h.store.DeleteRoot("pin"))
	_, err = h.store.Remove([]digest.Digest{pinned}, nil)
	h.must(err)
	h.wantAbsent(pinned)
	h.wantAbsent(layers[0])
}

func removedAnew(h *house) {
	content, desc := blob(mib)
	h.must(h.store.Ensure(h.Context(), desc, NewSource(content), nil))
	reader := h.fetch(desc, nil)
	_, err := h.store.Remove([]digest.Digest{desc.Digest}, nil)
	h.must(err)
	h.wantAbsent(desc.Digest)
	h.wantWhole(reader, content) // an open reader reads on
	h.must(h.store.Ensure(h.Context(), desc, NewSource(content), nil))
	h.wantHit(desc, content)
}
