package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func gzipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(content)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t *testing.T, content []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, o...)
	if err == nil {
		_, err = w.Write(content)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// tarOf is a tar of files, in order: name, content, name, content.
func tarOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for n := 0; n < len(files); n += 2 {
		err := w.WriteHeader(tarFile(files[n], int64(len(files[n+1]))))
		if err == nil {
			_, err = io.WriteString(w, files[n+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func homeArchive(t *testing.T) []byte {
	t.Helper()
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	if _, err := c.pushImage("local/app:v1", "a layer"); err != nil {
		t.Fatal(err)
	}
	return c.exported(ExportOptions{References: []Reference{reference(t, "local/app:v1")}})
}

func TestArchivesAreTakenCompressed(t *testing.T) {
	good := homeArchive(t)
	two := append(gzipped(t, good[:1000]), gzipped(t, good[1000:])...) // as pigz and cat make them
	for name, archive := range map[string][]byte{"gzip": gzipped(t, good), "gzip in parts": two, "zstd": zstded(t, good), "zstd in parts": append(zstded(t, good[:700]), zstded(t, good[700:])...)} {
		if done, err := gap(t).imported(archive, ImportOptions{}); err != nil || done.Blobs != 3 {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
	}
	damaged := zstded(t, good)
	damaged[len(damaged)/2] ^= 0x40
	wide := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0, 0, 0} // a window of 2^41 bytes
	for name, c := range map[string]struct {
		archive []byte
		says    string
	}{
		"xz":           {[]byte("\xfd7zXZ\x00 and more"), `"xz -dc"`},
		"bzip2":        {[]byte("BZh91AY&SY"), `"bzip2 -dc"`},
		"lz4":          {[]byte("\x04\x22\x4d\x18 and more"), `"lz4 -dc"`},
		"zip":          {[]byte("PK\x03\x04 and more"), `"unzip -p"`},
		"half a zstd":  {zstded(t, good)[:200], "ends in the middle"},
		"bad zstd":     {damaged, "damaged"},
		"a wide zstd":  {wide, "look back"},
		"a short gzip": {[]byte("\x1f\x8b\x08"), "ends in the middle"},
		"no gzip":      {[]byte("\x1f\x8b" + strings.Repeat("x", 100)), "damaged"},
	} {
		target := gap(t)
		_, err := target.imported(c.archive, ImportOptions{})
		if wantCode(t, err, CodeArchiveInvalid); !strings.Contains(fmt.Sprint(err), c.says) || target.blobs() != 0 {
			t.Errorf("%s: %v, and %d blobs are here", name, err, target.blobs())
		}
	}
}

// dockerSaved is what docker save writes, of layers as they are given: {name, content, what is in it}.
func dockerSaved(t *testing.T, tag string, layers ...[3]string) []byte {
	t.Helper()
	config := specs.Image{Platform: specs.Platform{OS: "linux", Architecture: "amd64"}, RootFS: specs.RootFS{Type: "layers"}}
	line := dockerImage{RepoTags: []string{tag}}
	var members []string
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString(l[2]))
		line.Layers = append(line.Layers, l[0])
		members = append(members, l[0], l[1])
	}
	encoded := string(mustJSON(t, config))
	line.Config = digest.FromString(encoded).Encoded() + ".json"
	return tarOf(t, append(members, line.Config, encoded, "manifest.json", string(mustJSON(t, []dockerImage{line})), "repositories", "{}")...)
}

func TestLayersOfDockerSaveAreTakenCompressed(t *testing.T) {
	squeezed, packed := string(zstded(t, []byte("two"))), string(gzipped(t, []byte("three")))
	c := gap(t)
	done, err := c.imported(dockerSaved(t, "registry.test/app:v1", [3]string{"1/layer.tar", "one", "one"}, [3]string{"2/layer.tar", squeezed, "two"}, [3]string{"3/layer.tar", packed, "three"}), ImportOptions{})
	if err != nil || !done.Images[0].Complete {
		t.Fatalf("%+v, %v", done, err)
	}
	m, _ := c.get("registry.test/app:v1")
	for n, want := range []string{specs.MediaTypeImageLayer, specs.MediaTypeImageLayerZstd, specs.MediaTypeImageLayerGzip} {
		if got := m.parsed.layers[n].MediaType; got != want {
			t.Errorf("layer %d is %s, want %s", n, got, want)
		}
	}
	_, err = gap(t).imported(dockerSaved(t, "registry.test/app:v1", [3]string{"1/layer.tar", "BZh9", "one"}), ImportOptions{})
	if wantCode(t, err, CodeArchiveInvalid); !strings.Contains(err.Error(), "bzip2") {
		t.Error(err)
	}
}

// inArchive is the content of a file in a tar, nil for none.
func inArchive(t *testing.T, archive []byte, name string) (found []byte) {
	t.Helper()
	rewritten(t, archive, func(h *tar.Header, content []byte) []byte {
		if h.Name == name {
			found = content
		}
		return content
	})
	return found
}

func TestAnExportIsForDockerLoadToo(t *testing.T) {
	upstream := registrytest.New(t, registrytest.Options{})
	own, other := platforms.DefaultSpec(), specs.Platform{OS: "linux", Architecture: "riscv64"}
	foreign := upstream.AddImageFor("app", "", other, []byte("base"), []byte("of another"))
	image := upstream.AddImageFor("app", "v2", own, []byte("base"), []byte("our own"))
	upstream.Tag("app", "v3", image.Digest)
	upstream.AddIndex("app", "v1", foreign, image)
	upstream.AddIndex("app", "others", foreign)
	c := newCache(t, upstream, nil)
	at := func(tag string) Reference { return reference(t, "registry.test/app:"+tag) }
	for _, tag := range []string{"v1", "v2", "v3", "others"} {
		if _, err := c.Pull(t.Context(), at(tag), []string{PlatformAll}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.pushImage("local/artifact:v1", "no image"); err != nil { // by the media type of its config
		t.Fatal(err)
	}
	lines := func(o ExportOptions) (lines []dockerImage) {
		if content := inArchive(t, c.exported(o), dockerManifestFile); content != nil {
			if err := json.Unmarshal(content, &lines); err != nil {
				t.Fatal(err)
			}
		}
		return lines
	}
	of := func(image registrytest.Image, tags ...string) dockerImage {
		return dockerImage{blobPath(image.Config.Digest), tags, []string{blobPath(image.Layers[0].Digest), blobPath(image.Layers[1].Digest)}}
	}
	same := func(a, b dockerImage) bool {
		return a.Config == b.Config && slices.Equal(a.RepoTags, b.RepoTags) && slices.Equal(a.Layers, b.Layers)
	}
	for _, c := range []struct {
		title string
		o     ExportOptions
		want  []dockerImage
	}{
		{"this machine's of an index, and all names", ExportOptions{References: []Reference{at("v3"), at("v1"), at("v2")}},
			[]dockerImage{of(image, "registry.test/app:v1", "registry.test/app:v2", "registry.test/app:v3")}},
		{"another where it is the only one", ExportOptions{References: []Reference{at("others")}}, []dockerImage{of(foreign, "registry.test/app:others")}},
		{"a chosen one", ExportOptions{References: []Reference{at("v1")}, Platforms: []string{"linux/riscv64"}}, []dockerImage{of(foreign, "registry.test/app:v1")}},
		{"no artifact", ExportOptions{References: []Reference{reference(t, "local/artifact:v1")}}, nil},
		{"nothing that lacks", ExportOptions{References: []Reference{at("v2")}, Have: []digest.Digest{digest.FromString("base")}}, nil},
		{"no name", ExportOptions{References: []Reference{reference(t, "registry.test/app@"+image.Digest.String())}}, []dockerImage{of(image)}},
	} {
		if got := lines(c.o); !slices.EqualFunc(got, c.want, same) {
			t.Errorf("%s: %+v, want %+v", c.title, got, c.want)
		}
	}
	// By docker's form alone it is the same image.
	docker := rewritten(t, c.exported(ExportOptions{References: []Reference{at("v2")}}), func(h *tar.Header, content []byte) []byte {
		if h.Name == "index.json" || h.Name == "oci-layout" {
			return nil
		}
		return content
	})
	target := gap(t)
	if _, err := target.imported(docker, ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	if m, _ := target.get("registry.test/app:v2"); m.parsed.config.Digest != image.Config.Digest {
		t.Errorf("the config is %s", m.parsed.config.Digest)
	}
}

// TestNamesAreThoseOfWhoReadsThem: docker and Kubernetes know local/app as docker.io/local/app, and write a tag where we have the whole name.
func TestNamesAreThoseOfWhoReadsThem(t *testing.T) {
	archive := homeArchive(t)
	var index specs.Index
	if err := json.Unmarshal(inArchive(t, archive, "index.json"), &index); err != nil {
		t.Fatal(err)
	}
	notes := index.Manifests[0].Annotations
	if notes[nameAnnotation] != "docker.io/local/app:v1" || notes[specs.AnnotationRefName] != "local/app:v1" {
		t.Errorf("%v", notes)
	}
	for ref, want := range map[string]string{"local/app:v1": "local/app:v1", "v1": "registry.test/team/app:v7", "": "registry.test/team/app:v7"} {
		notes[nameAnnotation], notes[specs.AnnotationRefName] = "registry.test/team/app:v7", ref
		encoded := mustJSON(t, index)
		done, err := gap(t).imported(rewritten(t, archive, func(h *tar.Header, content []byte) []byte {
			if h.Name == "index.json" {
				return encoded
			}
			return content
		}), ImportOptions{})
		if err != nil || done.Images[0].Reference != want {
			t.Errorf("%q: %+v, %v", ref, done, err)
		}
	}
}

// TestAnImageOfTwoNamesIsOneImage where it gets another.
func TestAnImageOfTwoNamesIsOneImage(t *testing.T) {
	archive := rewritten(t, homeArchive(t), func(h *tar.Header, content []byte) []byte {
		if h.Name == "index.json" {
			var index specs.Index
			if err := json.Unmarshal(content, &index); err != nil {
				t.Fatal(err)
			}
			again := index.Manifests[0]
			again.Annotations = map[string]string{specs.AnnotationRefName: "local/app:v2"}
			index.Manifests = append(index.Manifests, again)
			return mustJSON(t, index)
		}
		return content
	})
	for name, want := range map[string]int{"": 2, "local/other:v1": 1} {
		var o ImportOptions
		if name != "" {
			o.Name = reference(t, name)
		}
		if done, err := gap(t).imported(archive, o); err != nil || len(done.Images) != want {
			t.Errorf("%q: %+v, %v", name, done, err)
		}
	}
}

// TestTheFormOfSkopeosDirIsTaken, byte for byte, an index as well.
func TestTheFormOfSkopeosDirIsTaken(t *testing.T) {
	upstream := registrytest.New(t, registrytest.Options{})
	image := upstream.AddImageFor("app", "", specs.Platform{OS: "linux", Architecture: "amd64"}, []byte("one"))
	_, index := upstream.AddIndex("app", "v1", image)
	blobs := []string{digest.FromString("one").Encoded(), "one"}
	config := image.Config.Digest.Encoded()
	c := newCache(t, upstream, nil)
	if _, err := c.Pull(t.Context(), reference(t, "registry.test/app:v1"), nil, nil); err != nil {
		t.Fatal(err)
	}
	content, err := c.store.ReadAll(image.Config.Digest, maxManifest)
	if err != nil {
		t.Fatal(err)
	}
	blobs = append(blobs, config, string(content), "version", "Directory Transport Version: 1.1\n")
	for name, archive := range map[string][]byte{
		string(image.Manifest): tarOf(t, append(blobs, "manifest.json", string(image.Manifest))...),
		string(index):          tarOf(t, append(blobs, "manifest.json", string(index), image.Digest.Encoded()+".manifest.json", string(image.Manifest))...),
	} {
		target := gap(t)
		done, err := target.imported(archive, ImportOptions{Name: reference(t, "local/app:v1")})
		if err != nil || !done.Images[0].Complete || done.Images[0].Digest != digest.FromString(name).String() {
			t.Errorf("%+v, %v", done, err)
		}
		_, err = gap(t).imported(archive, ImportOptions{})
		if wantCode(t, err, CodeArchiveInvalid); !strings.Contains(err.Error(), "--name") {
			t.Error(err)
		}
	}
}

// TestAnIndexOfPlatformsIsOneImage where index.json is that index, without names.
func TestAnIndexOfPlatformsIsOneImage(t *testing.T) {
	upstream := registrytest.New(t, registrytest.Options{})
	one := upstream.AddImageFor("app", "", specs.Platform{OS: "linux", Architecture: "amd64"}, []byte("one"))
	two := upstream.AddImageFor("app", "", specs.Platform{OS: "linux", Architecture: "arm64"}, []byte("two"))
	_, index := upstream.AddIndex("app", "v1", one, two)
	c := newCache(t, upstream, nil)
	if _, err := c.Pull(t.Context(), reference(t, "registry.test/app:v1"), []string{PlatformAll}, nil); err != nil {
		t.Fatal(err)
	}
	archive := rewritten(t, c.exported(ExportOptions{References: []Reference{reference(t, "registry.test/app:v1")}}), func(h *tar.Header, content []byte) []byte {
		if h.Name == "index.json" {
			return index
		}
		return content
	})
	done, err := gap(t).imported(archive, ImportOptions{Name: reference(t, "local/app:v1")})
	if err != nil || len(done.Images) != 1 || done.Images[0].Digest != digest.FromBytes(index).String() || len(done.Images[0].Platforms) != 2 {
		t.Errorf("%+v, %v", done, err)
	}
	_, err = gap(t).imported(archive, ImportOptions{})
	if wantCode(t, err, CodeArchiveInvalid); !strings.Contains(err.Error(), "--name") {
		t.Error(err)
	}
}

// TestAnArchiveIsReadInAnyOrder: index.json may come last, and folders be told or not.
func TestAnArchiveIsReadInAnyOrder(t *testing.T) {
	var members [][2]string
	rewritten(t, homeArchive(t), func(h *tar.Header, content []byte) []byte {
		members = append(members, [2]string{h.Name, string(content)})
		return content
	})
	for range len(members) {
		members = append(members[1:], members[0])
		var all []string
		for _, m := range members {
			all = append(all, "./"+m[0], m[1])
		}
		if done, err := gap(t).imported(tarOf(t, all...), ImportOptions{}); err != nil || len(done.Images) != 1 {
			t.Errorf("%s first: %v", members[0][0], err)
		}
	}
}

// TestHostileSizesOfAnArchiveAreRefused before they cost anything.
func TestHostileSizesOfAnArchiveAreRefused(t *testing.T) {
	header := func(h *tar.Header) []byte {
		var out bytes.Buffer
		if err := tar.NewWriter(&out).WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	blob := blobPath(digest.FromString("x"))
	huge := tarFile(blob, 1<<62)
	huge.Format = tar.FormatGNU
	folder := header(&tar.Header{Typeflag: tar.TypeDir, Name: "x/", Mode: 0o755})
	hole := tarFile(blob, 0)
	hole.Format = tar.FormatGNU
	holes := header(hole)
	holes[156] = tar.TypeGNUSparse // which our writer does not write
	copy(holes[148:156], "        ")
	sum := 0
	for _, b := range holes[:tarBlock] {
		sum += int(b)
	}
	copy(holes[148:156], fmt.Sprintf("%06o\x00 ", sum))
	for title, c := range map[string]struct {
		from io.Reader
		says string
	}{
		"4 EiB that do not come": {bytes.NewReader(header(huge)), "ends in the middle"},
		"a long index.json":      {bytes.NewReader(header(tarFile("index.json", maxManifest+1))), "larger than"},
		"a file of holes":        {bytes.NewReader(append(holes, make([]byte, 4*tarBlock)...)), "holes"},
		"too many files":         {bytes.NewReader(bytes.Repeat(folder, membersMost+1)), "more than 100000 files"},
	} {
		target := gap(t)
		_, err := target.Import(t.Context(), c.from, ImportOptions{})
		ingests, ierr := target.store.Ingests()
		if wantCode(t, err, CodeArchiveInvalid); !strings.Contains(fmt.Sprint(err), c.says) || target.blobs() != 0 || len(ingests) != 0 || ierr != nil {
			t.Errorf("%s: %v; %d blobs, %v", title, err, target.blobs(), ingests)
		}
	}
}

// TestAnImportedTagIsAsOldAsItsImport: upstream has the last word once its time is over, and not before.
func TestAnImportedTagIsAsOldAsItsImport(t *testing.T) {
	before := registrytest.New(t, registrytest.Options{})
	old := before.AddImage("app", "v1", []byte("old"))
	source := newCache(t, before, nil)
	if _, err := source.Pull(t.Context(), reference(t, "registry.test/app:v1"), nil, nil); err != nil {
		t.Fatal(err)
	}
	archive := source.exported(ExportOptions{References: []Reference{reference(t, "registry.test/app:v1")}})
	upstream := registrytest.New(t, registrytest.Options{})
	moved := upstream.AddImage("app", "v1", []byte("new"))
	for _, known := range []bool{false, true} { // whether the tag was here before, with what upstream says
		c := newCache(t, upstream, nil)
		if known {
			c.expect("registry.test/app:v1", moved.Digest, OutcomeMiss)
		}
		if _, err := c.imported(archive, ImportOptions{}); err != nil {
			t.Fatal(err)
		}
		c.expect("registry.test/app:v1", old.Digest, OutcomeHit)
		c.clock.advance(c.options.TagTTL + time.Second)
		if m, _ := c.get("registry.test/app:v1"); m.Descriptor.Digest != moved.Digest {
			t.Errorf("after its time, known before %t, the tag means %s", known, m.Descriptor.Digest)
		}
	}
	pinned := newCache(t, upstream, nil)
	if _, err := pinned.imported(archive, ImportOptions{Pin: true}); err != nil {
		t.Fatal(err)
	}
	pinned.clock.advance(100 * time.Hour)
	if m, _ := pinned.get("registry.test/app:v1"); m.Descriptor.Digest != old.Digest {
		t.Errorf("though pinned the tag means %s", m.Descriptor.Digest)
	}
}
