package storetest

import (
	"bytes"
	"errors"
	"testing/synctest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

var keepTests = []test{
	{"put content is read back, with what is known of it", putReadStat},
	{"put again is harmless", putAgain},
	{"a blob larger than the limit is not read", readLimit},
	{"ensure tells its progress and returns for a sealed blob", ensureProgress},
	{"ensure joins a flight", ensureJoins},
	{"a closed store takes nothing", closedStore},
	{"close cuts followers of a flight", closeDuringFlight},
}

var errTooSlow = errors.New("still waiting")

func manifest(text string) ([]byte, specs.Descriptor) {
	desc := describe([]byte(text))
	desc.MediaType = specs.MediaTypeImageManifest
	return []byte(text), desc
}

func putReadStat(h *house) {
	content, desc := manifest(`{"schemaVersion":2}`)
	h.must(h.store.Put(h.Context(), desc, content))
	got, err := h.store.ReadAll(desc.Digest, 1000)
	if err != nil || !bytes.Equal(got, content) {
		h.Errorf("read %q, %v", got, err)
	}
	info, err := h.store.Stat(desc.Digest)
	if err != nil || info.MediaType != desc.MediaType || info.Size != desc.Size || info.Sealed.IsZero() {
		h.Errorf("stat %+v, %v", info, err)
	}
	h.wantHit(desc, content)
}

func putAgain(h *house) {
	content, desc := manifest("again")
	child := digest.FromString("child")
	for range 2 {
		h.must(h.store.Put(h.Context(), desc, content))
	}
	h.must(h.store.Put(h.Context(), desc, content, child))
	refs, err := h.store.Refs(desc.Digest)
	if err != nil || len(refs) != 1 || refs[0] != child {
		h.Errorf("refs %v, %v", refs, err)
	}
}

func readLimit(h *house) {
	content, desc := manifest("twelve bytes")
	h.must(h.store.Put(h.Context(), desc, content))
	var size *layerstore.SizeError
	if _, err := h.store.ReadAll(desc.Digest, 11); !errors.As(err, &size) {
		h.Errorf("limit below the size: %v", err)
	}
	if _, err := h.store.ReadAll(desc.Digest, 12); err != nil {
		h.Errorf("limit of the size: %v", err)
	}
	if _, err := h.store.ReadAll(digest.FromString("other"), 12); !errors.Is(err, layerstore.ErrNotFound) {
		h.Errorf("read of what is not here: %v", err)
	}
}

func ensureProgress(h *house) {
	content, desc := blob(3 * mib)
	for range 2 { // fetched, then here
		var last int64
		h.must(h.store.Ensure(h.Context(), desc, NewSource(content), func(done, total int64) {
			if done < last || done > total || total != desc.Size {
				h.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		}))
		if last != desc.Size {
			h.Errorf("progress ended at %d of %d", last, desc.Size)
		}
		if _, err := h.store.Stat(desc.Digest); err != nil {
			h.Errorf("ensure returned and %v", err)
		}
	}
}

func ensureJoins(h *house) {
	content, desc := blob(2 * mib)
	hold := make(chan struct{})
	src := Always(content, Answer{HoldAt: mib, Hold: hold})
	h.fetch(desc, src)
	done := make(chan error, 1)
	go func() { done <- h.store.Ensure(h.Context(), desc, src, nil) }()
	synctest.Wait()
	select {
	case err := <-done:
		h.Errorf("ensure returned %v before the blob was here", err)
	default:
	}
	close(hold)
	h.must(<-done)
	h.wantRequests(src, Request{0, -1})
}

func closedStore(h *house) {
	content, desc := blob(100)
	closed := h.store
	h.stop()
	if _, err := closed.Fetch(h.Context(), desc, NewSource(content)); !errors.Is(err, layerstore.ErrClosed) {
		h.Errorf("fetch: %v", err)
	}
	if err := closed.Put(h.Context(), desc, content); !errors.Is(err, layerstore.ErrClosed) {
		h.Errorf("put: %v", err)
	}
	if _, err := closed.Remove([]digest.Digest{desc.Digest}, nil); !errors.Is(err, layerstore.ErrClosed) {
		h.Errorf("remove: %v", err)
	}
	if err := closed.Close(); err != nil {
		h.Errorf("a second close: %v", err)
	}
}

func closeDuringFlight(h *house) {
	content, desc := blob(2 * mib)
	b := h.fetch(desc, Always(content, Answer{HoldAt: mib}))
	_, waiting := manifest("never comes")
	waited := make(chan error, 1)
	src := Always([]byte("x"), Answer{Err: errTooSlow})
	go func() {
		_, err := h.store.Fetch(h.Context(), waiting, src)
		waited <- err
	}()
	synctest.Wait()
	h.stop()
	if err := h.wantCut(b); !errors.Is(err, layerstore.ErrClosed) {
		h.Errorf("a follower got %v", err)
	}
	if err := <-waited; !errors.Is(err, layerstore.ErrClosed) {
		h.Errorf("a waiting fetch got %v", err)
	}
}
