package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// TestEachByteOfAnExportIsChecked of each file in it, those that no digest names included: a bit that
// flipped in index.json would be another name.
func TestEachByteOfAnExportIsChecked(t *testing.T) {
	good := homeArchive(t)
	target := gap(t)
	read := bytes.NewReader(good)
	archive := tar.NewReader(read)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		begin := len(good) - read.Len()
		for at := begin; at < begin+int(h.Size); at += 3 {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << (at % 8)
			if _, err := target.imported(bad, ImportOptions{}); err == nil {
				t.Errorf("byte %d of %s was flipped, and nobody saw it", at-begin, h.Name)
			}
		}
	}
	if images, err := target.Images(t.Context()); err != nil || len(images) > 0 {
		t.Errorf("damaged archives named %v, %v", images, err)
	}
	if done, err := target.imported(good, ImportOptions{}); err != nil || len(done.Images) != 1 {
		t.Errorf("undamaged: %+v, %v", done, err)
	}
}

// TestWhatFollowsTheEndOfAnArchive is told where images might be missed, and passed over where a disk
// or a tape has something behind the archive that is not its.
func TestWhatFollowsTheEndOfAnArchive(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	for _, ref := range []string{"local/one:v1", "local/two:v1"} {
		if _, err := c.pushImage(ref, ref); err != nil {
			t.Fatal(err)
		}
	}
	one := c.exported(ExportOptions{References: []Reference{reference(t, "local/one:v1")}})
	two := c.exported(ExportOptions{References: []Reference{reference(t, "local/two:v1")}})
	zipped := gzipped(t, one)
	damaged := bytes.Clone(zipped)
	damaged[len(damaged)-8] ^= 1 // in the checksum
	for title, test := range map[string]struct {
		archive []byte
		says    string // "": taken
	}{
		"another tar":              {slices.Concat(one, two), "another one follows"},
		"another tar, after zeros": {slices.Concat(one, make([]byte, 20*tarBlock), two), "another one follows"},
		"two of gzip":              {slices.Concat(zipped, gzipped(t, two)), "another one follows"},
		"zeros":                    {slices.Concat(one, make([]byte, 4321)), ""},
		"what stood on the disk":   {slices.Concat(one, bytes.Repeat([]byte("x"), 4321)), ""},
		"zeros after gzip":         {slices.Concat(zipped, make([]byte, 4321)), ""},
		"a wrong checksum":         {damaged, "damaged"},
		"no checksum":              {zipped[:len(zipped)-6], "ends in the middle"},
	} {
		target := gap(t)
		_, err := target.imported(test.archive, ImportOptions{})
		if test.says == "" && err != nil || test.says != "" && !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("%s: %v, want %q", title, err, test.says)
		}
		if blobs := target.blobs(); test.says != "" && blobs != 0 {
			t.Errorf("%s: %d blobs are left", title, blobs)
		}
		target.stop()
	}
}

// TestWhatAKilledImportWasWritingGoes when we are started again: nobody can go on with it. An
// upload, which somebody can, stays.
func TestWhatAKilledImportWasWritingGoes(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	for _, name := range []string{rootOfImport + "X", rootOfUpload + "X"} {
		in, err := c.store.Ingest(name, specs.Descriptor{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "half a lay"); err != nil {
			t.Fatal(err)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.restart()
	left, err := c.store.Ingests()
	if err != nil || len(left) != 1 || left[0].Name != rootOfUpload+"X" {
		t.Errorf("left are %+v, %v; want the upload alone", left, err)
	}
}

// TestUnzippingALayerEndsWithItsImport because a few bytes may be terabytes.
func TestUnzippingALayerEndsWithItsImport(t *testing.T) {
	c := gap(t)
	layer := gzipped(t, make([]byte, 4<<20))
	d := digest.FromBytes(layer)
	if err := c.store.Put(t.Context(), specs.Descriptor{Digest: d, Size: int64(len(layer))}, layer); err != nil {
		t.Fatal(err)
	}
	i := &importing{r: c.Registry, unzipped: map[digest.Digest]unzippedLayer{}}
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the sender left")
	cancel(left)
	if _, err := i.unzippedDigest(ctx, member{d, int64(len(layer))}); !errors.Is(err, left) {
		t.Errorf("%v, want %v", err, left)
	}
	plain, err := i.unzippedDigest(t.Context(), member{d, int64(len(layer))})
	if want := digest.FromBytes(make([]byte, 4<<20)); err != nil || plain != (unzippedLayer{want, "gzip"}) {
		t.Errorf("%+v, %v; want %s", plain, err, want)
	}
}

// TestAnImportTellsWhichTagsItMoved in a home and of an upstream alike.
func TestAnImportTellsWhichTagsItMoved(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	var archives [][]byte
	var digests []digest.Digest
	for _, content := range []string{"one", "two"} {
		d, err := c.pushImage("local/app:v1", content)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
		archives = append(archives, c.exported(ExportOptions{References: []Reference{reference(t, "local/app:v1")}}))
	}
	target := gap(t)
	for _, name := range []string{"local/app:v1", "registry.test/app:v1"} {
		for n, want := range [][]Moved{nil, {{name, digests[0], digests[1]}}, nil} {
			done, err := target.imported(archives[min(n, 1)], ImportOptions{Name: reference(t, name)})
			if err != nil || !slices.Equal(done.Moved, want) {
				t.Errorf("import %d of %s: moved %+v, %v; want %+v", n, name, done.Moved, err, want)
			}
		}
	}
}
