package contentstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func describe(b []byte) specs.Descriptor {
	return specs.Descriptor{MediaType: specs.MediaTypeImageLayerGzip, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// opened is a house at root that the test may restart.
func opened(t *testing.T, root string) *house {
	t.Helper()
	h, err := openAt(root)
	must(t, err)
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *house) restart(t *testing.T) {
	t.Helper()
	root := h.blobs.Root()
	must(t, h.close())
	again, err := openAt(root)
	must(t, err)
	*h = *again
}

func (h *house) writer(t *testing.T, ref string, desc specs.Descriptor) content.Writer {
	t.Helper()
	w, err := h.Writer(t.Context(), content.WithRef(ref), content.WithDescriptor(desc))
	must(t, err)
	return w
}

func (h *house) commit(t *testing.T, b []byte, opts ...content.Opt) digest.Digest {
	t.Helper()
	desc := describe(b)
	must(t, content.WriteBlob(t.Context(), h, "commit-"+desc.Digest.String(), bytes.NewReader(b), desc, opts...))
	return desc.Digest
}

func (h *house) wantBytes(t *testing.T, want []byte) {
	t.Helper()
	got, err := content.ReadBlob(t.Context(), h, describe(want))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
}

func wantError(t *testing.T, what string, err error, is func(error) bool) {
	t.Helper()
	if !is(err) {
		t.Errorf("%s: error %v", what, err)
	}
}

func (h *house) wantGone(t *testing.T, d digest.Digest) {
	t.Helper()
	_, err := h.Info(t.Context(), d)
	wantError(t, "info", err, errdefs.IsNotFound)
	_, err = h.ReaderAt(t.Context(), specs.Descriptor{Digest: d})
	wantError(t, "reader", err, errdefs.IsNotFound)
}

func TestWhatWasCachedIsContentAndWhatIsCommittedIsCached(t *testing.T) {
	h := opened(t, t.TempDir())
	cached, written := []byte("came from an upstream"), []byte("came from containerd")
	must(t, h.blobs.Put(t.Context(), describe(cached), cached))
	h.wantBytes(t, cached)
	d := h.commit(t, written)
	b, err := h.blobs.Fetch(t.Context(), specs.Descriptor{Digest: d}, nil)
	must(t, err)
	defer b.Close()
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, written) || b.Outcome() != layerstore.Hit {
		t.Errorf("%v: %q, %v", b.Outcome(), got, err)
	}
	info, err := h.blobs.Stat(d)
	if err != nil || info.MediaType != specs.MediaTypeImageLayerGzip {
		t.Errorf("stat %+v, %v", info, err)
	}
}

func TestBlobInFlightIsNotContentYet(t *testing.T) {
	h := opened(t, t.TempDir())
	b := bytes.Repeat([]byte("x"), 1000)
	hold := make(chan struct{})
	flight, err := h.blobs.Fetch(t.Context(), describe(b), storetest.Always(b, storetest.Answer{HoldAt: 500, Hold: hold}))
	must(t, err)
	defer flight.Close()
	h.wantGone(t, digest.FromBytes(b))
	close(hold)
	must(t, h.blobs.Ensure(t.Context(), describe(b), storetest.NewSource(b), nil))
	h.wantBytes(t, b)
}

func TestDeleteKeepsWhatIsNeeded(t *testing.T) {
	h := opened(t, t.TempDir())
	layer, manifest, loose := []byte("a layer"), []byte("a manifest"), []byte("nobody's")
	must(t, h.blobs.Put(t.Context(), describe(layer), layer))
	must(t, h.blobs.Put(t.Context(), describe(manifest), manifest, digest.FromBytes(layer)))
	must(t, h.blobs.SetRoot("pin", digest.FromBytes(manifest)))
	d := h.commit(t, loose, content.WithLabels(map[string]string{"k": "v"}))

	refused := func(b []byte) {
		t.Helper()
		wantError(t, "delete", h.Delete(t.Context(), digest.FromBytes(b)), errdefs.IsFailedPrecondition)
		h.wantBytes(t, b)
	}
	refused(manifest) // a root keeps it
	refused(layer)    // and this with it
	must(t, h.blobs.DeleteRoot("pin"))
	lease := h.blobs.Lease()
	lease.Hold(digest.FromBytes(manifest))
	refused(manifest) // somebody makes something of it
	lease.Release()
	refused(layer) // part of an image that is here

	must(t, h.Delete(t.Context(), d))
	h.wantGone(t, d)
	wantError(t, "second delete", h.Delete(t.Context(), d), errdefs.IsNotFound)
	must(t, h.Delete(t.Context(), digest.FromBytes(manifest)))
	h.wantBytes(t, layer) // delete takes one blob, not what it refers to
	must(t, h.Delete(t.Context(), digest.FromBytes(layer)))
	h.restart(t)
	for _, b := range [][]byte{layer, manifest, loose} {
		h.wantGone(t, digest.FromBytes(b))
	}
	if st, err := h.blobs.Stats(); err != nil || st.Blobs != 0 || st.Bytes != 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
}

func TestOpenReaderOutlivesDelete(t *testing.T) {
	h := opened(t, t.TempDir())
	b := []byte("read while it goes")
	d := h.commit(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := h.ReaderAt(ctx, specs.Descriptor{Digest: d})
	must(t, err)
	defer r.Close()
	cancel()
	must(t, h.Delete(t.Context(), d))
	got := make([]byte, len(b))
	if n, err := r.ReadAt(got, 0); n != len(b) || (err != nil && err != io.EOF) || !bytes.Equal(got, b) {
		t.Errorf("read %q, %v", got[:n], err)
	}
	if n, err := r.ReadAt(got, 5); n != len(b)-5 || err != io.EOF {
		t.Errorf("read to the end: %d bytes, %v", n, err)
	}
}

func TestIngestGoesOnAfterARestart(t *testing.T) {
	h := opened(t, t.TempDir())
	b := bytes.Repeat([]byte("0123456789"), 100_000)
	w := h.writer(t, "layer", describe(b))
	_, err := w.Write(b[:600_000])
	must(t, err)
	before, err := w.Status()
	must(t, err)
	h.restart(t) // with the writer open
	_, err = w.Write(b[600_000:])
	wantError(t, "write after the end", err, errdefs.IsFailedPrecondition)

	st, err := h.Status(t.Context(), "layer")
	if err != nil || st.Offset != 600_000 || st.Total != int64(len(b)) || st.Expected != digest.FromBytes(b) {
		t.Fatalf("status %+v, %v", st, err)
	}
	if !st.StartedAt.Equal(before.StartedAt) || !st.UpdatedAt.Equal(before.UpdatedAt) {
		t.Errorf("times %v, %v became %v, %v", before.StartedAt, before.UpdatedAt, st.StartedAt, st.UpdatedAt)
	}
	w = h.writer(t, "layer", describe(b))
	if got := w.Digest(); got != digest.FromBytes(b[:600_000]) {
		t.Errorf("digest of what is there: %s", got)
	}
	must(t, content.Copy(t.Context(), w, bytes.NewReader(b), int64(len(b)), digest.FromBytes(b)))
	h.wantBytes(t, b)
	_, err = h.Status(t.Context(), "layer")
	wantError(t, "status after commit", err, errdefs.IsNotFound)
	wantLeft(t, h, 0)
}

// wantLeft counts the files under ingest/.
func wantLeft(t *testing.T, h *house, want int) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(h.blobs.Root(), "ingest"))
	if err != nil || len(files) != want {
		t.Errorf("under ingest/: %v, %v; want %d files", files, err, want)
	}
}

func TestRefOfOtherContentBeginsAnew(t *testing.T) {
	h := opened(t, t.TempDir())
	one, other := bytes.Repeat([]byte("1"), 1000), bytes.Repeat([]byte("2"), 1000)
	w := h.writer(t, "ref", describe(one))
	_, err := w.Write(one[:500])
	must(t, err)
	must(t, w.Close())
	w = h.writer(t, "ref", describe(other))
	if st, err := w.Status(); err != nil || st.Offset != 0 || st.Expected != digest.FromBytes(other) {
		t.Errorf("status %+v, %v", st, err)
	}
	must(t, content.Copy(t.Context(), w, bytes.NewReader(other), int64(len(other)), ""))
	h.wantBytes(t, other)
}

func TestTruncatedIngestGoesOnFromThere(t *testing.T) {
	h := opened(t, t.TempDir())
	b := []byte("right, not wrong")
	w := h.writer(t, "ref", specs.Descriptor{})
	_, err := w.Write([]byte("right, but wrong"))
	must(t, err)
	must(t, w.Close())
	w = h.writer(t, "ref", specs.Descriptor{})
	wantError(t, "truncate beyond the end", w.Truncate(17), errdefs.IsInvalidArgument)
	must(t, w.Truncate(7))
	h.restart(t) // what was cut off does not come back
	w = h.writer(t, "ref", specs.Descriptor{})
	_, err = w.Write(b[7:])
	must(t, err)
	must(t, w.Commit(t.Context(), 0, ""))
	if w.Digest() != digest.FromBytes(b) {
		t.Errorf("digest %s", w.Digest())
	}
	h.wantBytes(t, b)
}

func TestAbortDropsWhatWasWritten(t *testing.T) {
	h := opened(t, t.TempDir())
	wantError(t, "abort of nothing", h.Abort(t.Context(), "ref"), errdefs.IsNotFound)
	for _, open := range []bool{true, false} {
		w := h.writer(t, "ref", specs.Descriptor{})
		_, err := w.Write([]byte("half"))
		must(t, err)
		if !open {
			must(t, w.Close())
		}
		must(t, h.Abort(t.Context(), "ref"))
		wantLeft(t, h, 0)
		_, err = w.Write([]byte("more"))
		wantError(t, "write", err, errdefs.IsFailedPrecondition)
		wantError(t, "commit", w.Commit(t.Context(), 0, ""), errdefs.IsFailedPrecondition)
		must(t, w.Close())
	}
	w := h.writer(t, "ref", specs.Descriptor{})
	if st, err := w.Status(); err != nil || st.Offset != 0 {
		t.Errorf("status %+v, %v", st, err)
	}
	must(t, w.Close())
}

func TestStatusesAreFilteredByRef(t *testing.T) {
	h := opened(t, t.TempDir())
	for _, ref := range []string{"a", "b"} {
		must(t, h.writer(t, ref, specs.Descriptor{}).Close())
	}
	open := h.writer(t, "c", specs.Descriptor{})
	defer open.Close()
	for filter, want := range map[string]int{"": 3, "ref==b": 1, "ref~=/[bc]/": 2, "ref==d": 0} {
		found, err := h.ListStatuses(t.Context(), filter)
		if err != nil || len(found) != want {
			t.Errorf("%q: %+v, %v", filter, found, err)
		}
	}
	_, err := h.ListStatuses(t.Context(), "ref===")
	wantError(t, "bad filter", err, errdefs.IsInvalidArgument)
}

func TestWalkFiltersAndMayDelete(t *testing.T) {
	h := opened(t, t.TempDir())
	red := h.commit(t, []byte("red"), content.WithLabels(map[string]string{"colour": "red"}))
	h.commit(t, []byte("blue"), content.WithLabels(map[string]string{"colour": "blue"}))
	plain := []byte("none")
	must(t, h.blobs.Put(t.Context(), describe(plain), plain))
	walk := func(filters ...string) (found []digest.Digest) {
		t.Helper()
		must(t, h.Walk(t.Context(), func(i content.Info) error { found = append(found, i.Digest); return nil }, filters...))
		return found
	}
	if found := walk("labels.colour==red"); len(found) != 1 || found[0] != red {
		t.Errorf("red: %v", found)
	}
	if found := walk("labels.colour==red", "digest=="+digest.FromBytes(plain).String()); len(found) != 2 {
		t.Errorf("one of two filters: %v", found)
	}
	stop := errors.New("enough")
	if err := h.Walk(t.Context(), func(content.Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("walk that is stopped: %v", err)
	}
	must(t, h.Walk(t.Context(), func(i content.Info) error { return h.Delete(t.Context(), i.Digest) }))
	if found := walk(); len(found) != 0 {
		t.Errorf("left: %v", found)
	}
}

func TestLabelsSurviveARestartAndGoWithTheBlob(t *testing.T) {
	h := opened(t, t.TempDir())
	b := []byte("labelled")
	labels := map[string]string{"containerd.io/gc.root": "yes", "k": "v"}
	d := h.commit(t, b, content.WithLabels(labels))
	h.restart(t)
	if info, err := h.Info(t.Context(), d); err != nil || !maps.Equal(info.Labels, labels) {
		t.Errorf("info %+v, %v", info, err)
	}
	must(t, h.Delete(t.Context(), d))
	h.commit(t, b)
	wantNoLabels(t, h, d)

	must(t, h.Delete(t.Context(), d))
	h.commit(t, b, content.WithLabels(labels))
	_, err := h.blobs.Remove([]digest.Digest{d}, nil) // past the adapter
	must(t, err)
	h.restart(t)
	must(t, h.blobs.Put(t.Context(), describe(b), b))
	wantNoLabels(t, h, d)
}

func wantNoLabels(t *testing.T, h *house, d digest.Digest) {
	t.Helper()
	if info, err := h.Info(t.Context(), d); err != nil || len(info.Labels) != 0 {
		t.Errorf("info %+v, %v", info, err)
	}
}

func TestUpdateChangesWhatItNames(t *testing.T) {
	h := opened(t, t.TempDir())
	d := h.commit(t, []byte("x"), content.WithLabels(map[string]string{"a": "1", "b": "2"}))
	update := func(labels map[string]string, paths ...string) error {
		_, err := h.Update(t.Context(), content.Info{Digest: d, Labels: labels}, paths...)
		return err
	}
	must(t, update(map[string]string{"a": "3", "b": "9"}, "labels.a"))
	must(t, update(map[string]string{}, "labels.b"))
	if info, err := h.Info(t.Context(), d); err != nil || !maps.Equal(info.Labels, map[string]string{"a": "3"}) {
		t.Errorf("info %+v, %v", info, err)
	}
	wantError(t, "a field that is not mutable", update(nil, "size"), errdefs.IsInvalidArgument)
	wantError(t, "a label that is too long", update(map[string]string{"k": string(make([]byte, 5000))}), errdefs.IsInvalidArgument)
	must(t, update(nil, "labels"))
	wantNoLabels(t, h, d)
	_, err := h.Update(t.Context(), content.Info{Digest: digest.FromString("absent")})
	wantError(t, "update of what is not here", err, errdefs.IsNotFound)
}

func TestBadQuestionsGetContainerdsErrors(t *testing.T) {
	h := opened(t, t.TempDir())
	_, err := h.Info(t.Context(), "sha256:../../etc/passwd")
	wantError(t, "info", err, errdefs.IsInvalidArgument)
	wantError(t, "delete", h.Delete(t.Context(), "nonsense"), errdefs.IsInvalidArgument)
	_, err = h.Writer(t.Context(), content.WithRef("x"), content.WithDescriptor(specs.Descriptor{Digest: "sha256:0"}))
	wantError(t, "writer", err, errdefs.IsInvalidArgument)
	_, err = h.Writer(t.Context())
	wantError(t, "writer without a ref", err, errdefs.IsInvalidArgument)
	d := h.commit(t, []byte("here"))
	_, err = h.Writer(t.Context(), content.WithRef("x"), content.WithDescriptor(specs.Descriptor{Digest: d}))
	wantError(t, "writer of what is here", err, errdefs.IsAlreadyExists)
	wantLeft(t, h, 0)
}

func TestSha512IsTaken(t *testing.T) {
	h := opened(t, t.TempDir())
	b := []byte("a longer hash")
	for n, announced := range []digest.Digest{digest.SHA512.FromBytes(b), ""} {
		w := h.writer(t, "ref", specs.Descriptor{Digest: announced})
		_, err := w.Write(b)
		must(t, err)
		must(t, w.Commit(t.Context(), 0, digest.SHA512.FromBytes(b)))
		if w.Digest() != digest.SHA512.FromBytes(b) {
			t.Errorf("%d: digest %s", n, w.Digest())
		}
		must(t, h.Delete(t.Context(), w.Digest()))
	}
}
