package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// exported is what an export writes, and the size it announces is checked.
func (c *cache) exported(o ExportOptions) []byte {
	c.t.Helper()
	e, err := c.Export(c.t.Context(), o)
	if err != nil {
		c.t.Fatal(err)
	}
	defer e.Close()
	var out bytes.Buffer
	if err := e.Send(c.t.Context(), &out); err != nil {
		c.t.Fatal(err)
	}
	if size, err := e.Size(); err != nil || size != int64(out.Len()) {
		c.t.Errorf("%d bytes were announced (%v), %d sent", size, err, out.Len())
	}
	return out.Bytes()
}

func (c *cache) imported(archive []byte, o ImportOptions) (Imported, error) {
	c.t.Helper()
	return c.Import(c.t.Context(), bytes.NewReader(archive), o)
}

// files are the paths in a tar, in order.
func files(t *testing.T, archive []byte) (all []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h.Name)
	}
}

// rewritten is a tar with its files changed; change returns nil to leave one out.
func rewritten(t *testing.T, archive []byte, change func(h *tar.Header, content []byte) []byte) []byte {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		content, rerr := io.ReadAll(r)
		if err = errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		if content = change(h, content); content == nil {
			continue
		}
		h.Size, h.PAXRecords, h.Format = int64(len(content)), nil, tar.FormatUnknown // without the checksum
		if h.Typeflag != tar.TypeReg {
			h.Size, content = 0, nil
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// gap is a cache whose upstream is dead from the start.
func gap(t *testing.T) *cache {
	upstream := registrytest.New(t, registrytest.Options{})
	upstream.Stop()
	return newCache(t, upstream, nil)
}

func (c *cache) blobs() (n int) {
	c.t.Helper()
	if err := c.store.Each(func(layerstore.Info) error { n++; return nil }); err != nil {
		c.t.Fatal(err)
	}
	return n
}

func TestAnExportIsImportedBeyondAnAirGap(t *testing.T) {
	upstream := registrytest.New(t, registrytest.Options{})
	image := upstream.AddImage("app", "v1", []byte("one"), []byte("two"))
	source := newCache(t, upstream, nil)
	if _, err := source.Pull(t.Context(), reference(t, "registry.test/app:v1"), nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := source.pushImage("local/team/own:v2", "mine"); err != nil {
		t.Fatal(err)
	}
	refs := []Reference{reference(t, "registry.test/app:v1"), reference(t, "local/team/own:v2"), reference(t, "registry.test/app:v1")}
	archive := source.exported(ExportOptions{References: refs})
	slices.Reverse(refs)
	if again := source.exported(ExportOptions{References: refs}); !bytes.Equal(archive, again) {
		t.Error("the same images in another order make other bytes")
	}
	target := gap(t)
	done, err := target.imported(archive, ImportOptions{})
	if err != nil || len(done.Images) != 2 || !done.Images[0].Complete || !done.Images[1].Complete || done.Blobs != target.blobs() {
		t.Fatalf("%+v, %v; %d blobs here", done, err, target.blobs())
	}
	target.restart()
	target.expect("registry.test/app:v1", image.Digest, OutcomeHit)
	for _, l := range image.Layers {
		b, _, err := target.Blob(t.Context(), Repository{"registry.test", "app"}, l.Digest)
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	target.clock.advance(30 * 24 * 3600e9)
	target.expect("registry.test/app:v1", image.Digest, OutcomeStale)
	target.get("local/team/own:v2")
	if tags, _, err := target.Tags(t.Context(), Repository{LocalHome, "team/own"}); err != nil || !slices.Equal(tags, []string{"v2"}) {
		t.Errorf("tags of the home: %v, %v", tags, err)
	}
	if again, err := target.imported(archive, ImportOptions{}); err != nil || again.Blobs != 0 {
		t.Errorf("the same again: %+v, %v", again, err)
	}
}

func TestOnlyWhatTheOtherSideLacksIsExported(t *testing.T) {
	upstream := registrytest.New(t, registrytest.Options{})
	upstream.AddImage("app", "v1", []byte("base"), []byte("one"))
	upstream.AddImage("app", "v2", []byte("base"), []byte("two"))
	source, target := newCache(t, upstream, nil), gap(t)
	v1, v2 := reference(t, "registry.test/app:v1"), reference(t, "registry.test/app:v2")
	for _, ref := range []Reference{v1, v2} {
		if _, err := source.Pull(t.Context(), ref, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := target.imported(source.exported(ExportOptions{References: []Reference{v1}}), ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	e, err := source.Export(t.Context(), ExportOptions{References: []Reference{v2}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	here, err := target.Here(t.Context(), append(e.Blobs(), Sought{digest.FromString("base"), 5}, Sought{Digest: digest.FromString("base")}), nil)
	if err != nil || !slices.Contains(here, Sought{digest.FromString("base"), 4}) || len(here) >= len(e.Blobs()) {
		t.Fatalf("here: %v, %v", here, err)
	}
	var have []digest.Digest
	for _, h := range here {
		have = append(have, h.Digest)
	}
	archive := source.exported(ExportOptions{References: []Reference{v2}, Have: have})
	if got := files(t, archive); len(got) != 2+len(e.Blobs())-len(have) || slices.Contains(got, blobPath(digest.FromString("base"))) {
		t.Errorf("in the archive: %v", got)
	}
	third := gap(t)
	_, err = third.imported(archive, ImportOptions{})
	if wantCode(t, err, CodeIncomplete); !strings.Contains(err.Error(), digest.FromString("base").String()) {
		t.Errorf("what lacks is not told: %v", err)
	}
	if third.blobs() != 0 {
		t.Error("blobs of an import that came to nothing are kept")
	}
	third.refused("registry.test/app:v2", CodeUnavailable)
	if _, err := target.imported(archive, ImportOptions{Pin: true}); err != nil {
		t.Fatal(err)
	}
	pins, err := target.Pins(t.Context(), false)
	if err != nil || len(pins) != 1 || !pins[0].Complete || pins[0].Reference != "registry.test/app:v2" {
		t.Errorf("pins: %+v, %v", pins, err)
	}
}

func TestAPlatformOfAnIndexCrossesAlone(t *testing.T) {
	upstream := registrytest.New(t, registrytest.Options{})
	amd64 := upstream.AddImageFor("app", "", specs.Platform{OS: "linux", Architecture: "amd64"}, []byte("for amd64"))
	arm64 := upstream.AddImageFor("app", "", specs.Platform{OS: "linux", Architecture: "arm64"}, []byte("for arm64"))
	index, _ := upstream.AddIndex("app", "v1", amd64, arm64)
	source, target := newCache(t, upstream, nil), gap(t)
	ref := reference(t, "registry.test/app:v1")
	if _, err := source.Pull(t.Context(), ref, []string{"linux/arm64"}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := source.Export(t.Context(), ExportOptions{References: []Reference{ref}, Platforms: []string{"linux/amd64"}})
	wantCode(t, err, CodeIncomplete)
	done, err := target.imported(source.exported(ExportOptions{References: []Reference{ref}}), ImportOptions{Pin: true})
	if err != nil || !slices.Equal(done.Images[0].Platforms, []string{"linux/arm64"}) || !done.Images[0].Complete {
		t.Fatalf("%+v, %v", done, err)
	}
	target.expect("registry.test/app:v1", index.Digest, OutcomeHit)
	pins, err := target.Pins(t.Context(), false)
	if err != nil || !pins[0].Complete || !slices.Equal(pins[0].Platforms, []string{"linux/arm64"}) {
		t.Errorf("pins: %+v, %v", pins, err)
	}
}

func TestARottenBlobEndsAnExport(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	if _, err := c.pushImage("local/app:v1", "a layer"); err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("a layer")
	path := c.root + "/" + blobPath(d)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("A layer"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := c.Export(t.Context(), ExportOptions{References: []Reference{reference(t, "local/app:v1")}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var out bytes.Buffer
	err = e.Send(t.Context(), &out)
	var rot *layerstore.RotError
	if !errors.As(err, &rot) || rot.Digest != d || bytes.Contains(out.Bytes(), []byte("A layer")) {
		t.Errorf("it ends with %v", err)
	}
	if _, err := c.store.Stat(d); !errors.Is(err, layerstore.ErrNotFound) {
		t.Error("the rotten blob stays in the store")
	}
}

// dockerArchive is what docker save wrote before version 25, by go-containerregistry.
func dockerArchive(t *testing.T, tag string) ([]byte, v1.Image) {
	t.Helper()
	image, err := random.Image(3000, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := tarball.Write(ref, image, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), image
}

func TestWhatDockerSaveWroteIsImported(t *testing.T) {
	archive, image := dockerArchive(t, "registry.test/team/app:v1")
	c := gap(t)
	done, err := c.imported(archive, ImportOptions{})
	if err != nil || len(done.Images) != 1 || done.Images[0].Reference != "registry.test/team/app:v1" || !done.Images[0].Complete {
		t.Fatalf("%+v, %v", done, err)
	}
	config, err := image.ConfigName()
	if m, _ := c.get("registry.test/team/app:v1"); err != nil || m.parsed.config.Digest.String() != config.String() || len(m.parsed.layers) != 2 {
		t.Errorf("%+v, %v", m.parsed, err)
	}
	if want := 4; c.blobs() != want { // config, two layers, the manifest that was made
		t.Errorf("%d blobs are here, want %d", c.blobs(), want)
	}
	again, err := c.imported(archive, ImportOptions{Name: reference(t, "local/other:v2")})
	if err != nil || again.Images[0].Reference != "local/other:v2" || again.Images[0].Digest != done.Images[0].Digest {
		t.Errorf("by another name: %+v, %v", again, err)
	}
	// The oldest form: uncompressed layers in folders, one of them a link, and files for docker 1.9.
	old := rewritten(t, archive, func(h *tar.Header, content []byte) []byte {
		if strings.HasSuffix(h.Name, ".tar.gz") {
			plain, err := gzip.NewReader(bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			content, err = io.ReadAll(plain)
			if err != nil {
				t.Fatal(err)
			}
			h.Name = strings.TrimSuffix(h.Name, ".tar.gz") + "/layer.tar"
		}
		if h.Name == "manifest.json" {
			content = bytes.ReplaceAll(content, []byte(".tar.gz"), []byte("/layer.tar"))
		}
		return content
	})
	if done, err := gap(t).imported(old, ImportOptions{}); err != nil || !done.Images[0].Complete {
		t.Errorf("the oldest form: %+v, %v", done, err)
	}
}

// TestWhatIsWrongInAnArchiveIsRefused and nothing of it stays.
func TestWhatIsWrongInAnArchiveIsRefused(t *testing.T) {
	source := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	if _, err := source.pushImage("local/app:v1", "a layer"); err != nil {
		t.Fatal(err)
	}
	good := source.exported(ExportOptions{References: []Reference{reference(t, "local/app:v1")}})
	docker, _ := dockerArchive(t, "local/app:v1")
	layer := blobPath(digest.FromString("a layer"))
	with := func(name string, flag byte, link string) []byte {
		return rewritten(t, good, func(h *tar.Header, content []byte) []byte {
			if h.Name == layer {
				h.Name, h.Typeflag, h.Linkname = name, flag, link
			}
			return content
		})
	}
	edited := func(archive []byte, name, from, to string) []byte {
		return rewritten(t, archive, func(h *tar.Header, content []byte) []byte {
			if h.Name == name || name == "*" && strings.HasSuffix(h.Name, ".tar.gz") {
				return []byte(strings.Replace(string(content), from, to, 1))
			}
			return content
		})
	}
	without := func(name string) []byte {
		return rewritten(t, good, func(h *tar.Header, content []byte) []byte {
			if h.Name == name {
				return nil
			}
			return content
		})
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(good)
	z.Close()
	for title, c := range map[string]struct {
		archive []byte
		o       ImportOptions
		code    Code
		says    string
	}{
		"nothing":             {nil, ImportOptions{}, CodeArchiveInvalid, "neither index.json"},
		"no tar":              {bytes.Repeat([]byte("x"), 2000), ImportOptions{}, CodeArchiveInvalid, "no tar"},
		"half a tar":          {good[:len(good)-1024-512-100], ImportOptions{}, CodeArchiveInvalid, "ends in the middle"},
		"half a gzip":         {zipped.Bytes()[:zipped.Len()-200], ImportOptions{}, CodeArchiveInvalid, "ends in the middle"},
		"a flipped byte":      {edited(good, layer, "a layer", "A layer"), ImportOptions{}, CodeArchiveInvalid, "has the digest"},
		"a layer lacks":       {without(layer), ImportOptions{}, CodeIncomplete, digest.FromString("a layer").String()},
		"no oci-layout":       {without("oci-layout"), ImportOptions{}, CodeArchiveInvalid, "no oci-layout"},
		"no index.json":       {without("index.json"), ImportOptions{}, CodeArchiveInvalid, "neither index.json"},
		"a long path":         {with(strings.Repeat("x/", 600)+"x", tar.TypeReg, ""), ImportOptions{}, CodeArchiveInvalid, "more than 1024 bytes"},
		"..":                  {with("../../etc/passwd", tar.TypeReg, ""), ImportOptions{}, CodeArchiveInvalid, "not a path within"},
		"absolute":            {with("/etc/passwd", tar.TypeReg, ""), ImportOptions{}, CodeArchiveInvalid, "not a path within"},
		"not clean":           {with("blobs//sha256/x", tar.TypeReg, ""), ImportOptions{}, CodeArchiveInvalid, "not a path within"},
		"no digest":           {with("blobs/sha256/x", tar.TypeReg, ""), ImportOptions{}, CodeArchiveInvalid, "not the path of a blob"},
		"md5":                 {with("blobs/md5/d41d8cd98f00b204e9800998ecf8427e", tar.TypeReg, ""), ImportOptions{}, CodeArchiveInvalid, "not the path of a blob"},
		"twice":               {with("index.json", tar.TypeReg, ""), ImportOptions{}, CodeArchiveInvalid, "twice"},
		"a hard link":         {with("x", tar.TypeLink, "index.json"), ImportOptions{}, CodeArchiveInvalid, "neither a file nor a folder"},
		"a device":            {with("x", tar.TypeChar, ""), ImportOptions{}, CodeArchiveInvalid, "neither a file nor a folder"},
		"a link out":          {with("x", tar.TypeSymlink, "../etc/passwd"), ImportOptions{}, CodeArchiveInvalid, "points out"},
		"a tag alone":         {edited(edited(good, "index.json", "io.containerd.image.name", "x"), "index.json", `ref.name":"local/app:v1"`, `ref.name":"v1"`), ImportOptions{}, CodeArchiveInvalid, "--name"},
		"another size":        {edited(good, "index.json", `"size":`, `"size":1`), ImportOptions{}, CodeArchiveInvalid, "bytes"},
		"no such registry":    {good, ImportOptions{Name: reference(t, "nowhere.example/app:v1")}, CodeNameUnknown, "nowhere.example"},
		"the name of another": {good, ImportOptions{Name: reference(t, "local/app@"+digest.FromString("x").String())}, CodeArchiveInvalid, "its digest is"},
		"another layer":       {edited(docker, "*", "\x1f\x8b", "\x1f\x8c"), ImportOptions{}, CodeArchiveInvalid, "not the one that its config means"},
		"docker, no layer":    {edited(docker, "manifest.json", `"Layers":["`, `"Layers":["x`), ImportOptions{}, CodeArchiveInvalid, "not in it"},
	} {
		c2 := gap(t)
		_, err := c2.imported(c.archive, c.o)
		var e *Error
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s and %q", title, err, c.code, c.says)
		}
		images, err := c2.Images(t.Context())
		ingests, ierr := c2.store.Ingests()
		if err != nil || ierr != nil || len(images) != 0 || c2.blobs() != 0 || len(ingests) != 0 {
			t.Errorf("%s: left are %v, %d blobs, %v; %v %v", title, images, c2.blobs(), ingests, err, ierr)
		}
		c2.stop()
	}
	if _, err := gap(t).imported(zipped.Bytes(), ImportOptions{}); err != nil {
		t.Errorf("gzipped: %v", err)
	}
}

// TestAnImportThatIsGivenUpLeavesNothing whichever read it ends at.
func TestAnImportThatIsGivenUpLeavesNothing(t *testing.T) {
	source := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	if _, err := source.pushImage("local/app:v1", "a layer"); err != nil {
		t.Fatal(err)
	}
	good := source.exported(ExportOptions{References: []Reference{reference(t, "local/app:v1")}})
	c := gap(t)
	left := errors.New("the sender left")
	for at := 0; at < len(good)-1024; at += 700 {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := c.Import(ctx, io.MultiReader(bytes.NewReader(good[:at]), end(func() error { cancel(left); return io.ErrUnexpectedEOF })), ImportOptions{})
		if !errors.Is(err, left) && !strings.Contains(fmt.Sprint(err), "unexpected EOF") {
			t.Errorf("at %d: %v", at, err)
		}
		if ingests, err := c.store.Ingests(); c.blobs() != 0 || len(ingests) != 0 || err != nil {
			t.Fatalf("at %d: %d blobs and %v are left, %v", at, c.blobs(), ingests, err)
		}
	}
}

// end is a reader that fails.
type end func() error

func (e end) Read([]byte) (int, error) { return 0, e() }

func TestAPinIsNotPassedByAnImport(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	if _, err := c.pushImage("local/app:v1", "one"); err != nil {
		t.Fatal(err)
	}
	archive := c.exported(ExportOptions{References: []Reference{reference(t, "local/app:v1")}})
	target := gap(t)
	if _, err := target.pushImage("local/app:v1", "two"); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Pin(t.Context(), reference(t, "local/app:v1"), []string{PlatformAll}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := target.imported(archive, ImportOptions{})
	wantCode(t, err, CodePinned)
	done, err := target.imported(archive, ImportOptions{Pin: true})
	if err != nil || !done.Images[0].Pinned {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestMatchTellsWhatACallerMayPull and not what is here besides.
func TestMatchTellsWhatACallerMayPull(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	for _, ref := range []string{"local/a/app:v1", "local/b/app:v1"} {
		if _, err := c.pushImage(ref, "layer of "+ref); err != nil {
			t.Fatal(err)
		}
	}
	a, b := digest.FromString("layer of local/a/app:v1"), digest.FromString("layer of local/b/app:v1")
	sought := []Sought{{Digest: b}, {Digest: a}, {Digest: a}, {Digest: digest.FromString("none")}}
	for _, place := range []string{"local/a/app", "local/b/app", "local/c/app"} {
		here, err := c.Here(t.Context(), sought, func(repository string) (may, right bool) { return repository == place, false })
		want := map[string][]Sought{"local/a/app": {{a, 23}}, "local/b/app": {{b, 23}}, "local/c/app": {}}[place]
		if err != nil || !slices.Equal(here, want) {
			t.Errorf("%s: %v, %v, want %v", place, here, err, want)
		}
	}
	if here, err := c.Here(t.Context(), sought, nil); err != nil || len(here) != 2 {
		t.Errorf("the operator is told %v, %v", here, err)
	}
}
