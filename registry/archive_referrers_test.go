package registry

import (
	"archive/tar"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// attach pushes what refers to a manifest: by its subject, or, with a tag, as cosign does.
func (c *cache) attach(in Repository, to *Manifest, tag, content string) *Manifest {
	c.t.Helper()
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: c.pushBlob(in, "{}"), Layers: []specs.Descriptor{c.pushBlob(in, content)}}
	m.SchemaVersion = 2
	if tag == "" {
		m.Subject, m.ArtifactType = &to.Descriptor, "application/example"
	}
	encoded := mustJSON(c.t, m)
	ref := Reference{Repository: in, Tag: tag}
	if tag == "" {
		ref.Digest = digest.FromBytes(encoded)
	}
	if _, err := c.PutManifest(c.t.Context(), ref, m.MediaType, encoded); err != nil {
		c.t.Fatal(err)
	}
	got, _ := c.get(in.String() + "@" + digest.FromBytes(encoded).String())
	return got
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	encoded, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// listed are the digests that the referrers API tells, sorted.
func (c *cache) listed(in Repository, of digest.Digest) (all []digest.Digest) {
	c.t.Helper()
	page, _, err := c.Referrers(c.t.Context(), in, of, ReferrersQuery{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, d := range page.Manifests {
		all = append(all, d.Digest)
	}
	slices.Sort(all)
	return all
}

func sorted(all ...digest.Digest) []digest.Digest {
	slices.Sort(all)
	return all
}

// signedHome is a home with an image that has a signature by cosign's tag, an SBOM by its
// subject, and a signature of that SBOM.
func signedHome(t *testing.T) (c *cache, image, signature, sbom, deeper *Manifest) {
	c = newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	if _, err := c.pushImage("local/app:v1", "a layer"); err != nil {
		t.Fatal(err)
	}
	image, _ = c.get("local/app:v1")
	signature = c.attach(atHome, image, cosignTag(image.Descriptor.Digest, ".sig"), "signature")
	sbom = c.attach(atHome, image, "", "sbom")
	return c, image, signature, sbom, c.attach(atHome, sbom, "", "signature of the sbom")
}

func TestWhatRefersToAnImageGoesWithIt(t *testing.T) {
	source, image, signature, sbom, deeper := signedHome(t)
	d := image.Descriptor.Digest
	refs := []Reference{reference(t, "local/app:v1")}
	archive := source.exported(ExportOptions{References: refs})
	for name, o := range map[string]ImportOptions{"local/app": {}, "local/other": {Name: reference(t, "local/other:v2")}} {
		target := gap(t)
		done, err := target.imported(archive, o)
		if err != nil || len(done.Images) != 1 || done.Referrers != 3 || done.Blobs != target.blobs() {
			t.Fatalf("%s: %+v, %v", name, done, err)
		}
		target.restart()
		in := Repository{LocalHome, strings.TrimPrefix(name, "local/")}
		if got := target.listed(in, d); !slices.Equal(got, []digest.Digest{sbom.Descriptor.Digest}) {
			t.Errorf("%s: %v refer to the image", name, got)
		}
		if got := target.listed(in, sbom.Descriptor.Digest); !slices.Equal(got, []digest.Digest{deeper.Descriptor.Digest}) {
			t.Errorf("%s: %v refer to the SBOM", name, got)
		}
		target.expect(name+":"+cosignTag(d, ".sig"), signature.Descriptor.Digest, OutcomeHit)
		if again, err := target.imported(archive, o); err != nil || again.Blobs != 0 || again.Known != len(files(t, archive))-2 {
			t.Errorf("%s, once more: %+v, %v", name, again, err)
		}
	}
	bare := gap(t)
	done, err := bare.imported(source.exported(ExportOptions{References: refs, NoReferrers: true}), ImportOptions{})
	if err != nil || done.Referrers != 0 || len(bare.listed(atHome, d)) != 0 {
		t.Errorf("without referrers: %+v, %v", done, err)
	}
}

// TestAReferrerGoesToNoOtherRepository that has the same image: who reads there may not read here.
func TestAReferrerGoesToNoOtherRepository(t *testing.T) {
	source, image, _, _, _ := signedHome(t)
	if d, err := source.pushImage("local/open:v1", "a layer"); err != nil || d != image.Descriptor.Digest {
		t.Fatal(d, err)
	}
	target := gap(t)
	archive := source.exported(ExportOptions{References: []Reference{reference(t, "local/open:v1"), reference(t, "local/app:v1")}})
	if done, err := target.imported(archive, ImportOptions{}); err != nil || done.Referrers != 3 {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := target.listed(Repository{LocalHome, "open"}, image.Descriptor.Digest); len(got) != 0 {
		t.Errorf("%v came to another repository", got)
	}
}

// TestWhatRefersToACachedImageGoesWithIt as far as its pin brought it, and is listed and kept without upstream.
func TestWhatRefersToACachedImageGoesWithIt(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{Referrers: true})
	image := up.AddImage("team/app", "v1", []byte("one"))
	sbom := up.AddReferrer("team/app", image.Descriptor, "application/spdx+json", []byte("sbom"))
	gone := up.AddReferrer("team/app", image.Descriptor, "application/signature", []byte("signature"))
	up.Add(registrytest.Rule{Path: digest.FromString("signature").String(), Lie: registrytest.Answer(404, "")})
	signature, _ := sign(up, "team/app", image.Digest, ".sig", "signed")
	source := newCache(t, up, nil)
	source.pin(ref)
	eventually(t, func() bool { return source.pinNow(ref).ReferrersWant == 3 })
	var archive []byte
	eventually(t, func() bool {
		archive = source.exported(ExportOptions{References: []Reference{reference(t, ref)}})
		in := files(t, archive)
		return slices.Contains(in, blobPath(sbom.Digest)) && slices.Contains(in, blobPath(signature))
	})
	if slices.Contains(files(t, archive), blobPath(gone.Digest)) {
		t.Error("what is not here whole is exported")
	}
	target := gap(t)
	if done, err := target.imported(archive, ImportOptions{Pin: true}); err != nil || done.Referrers != 2 {
		t.Fatalf("%+v, %v", done, err)
	}
	target.restart()
	target.free.Store(0)
	if _, err := target.Collect(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := target.listed(reference(t, ref).Repository, image.Digest); !slices.Equal(got, []digest.Digest{sbom.Digest}) {
		t.Errorf("%v refer to the image", got)
	}
	target.clock.advance(2 * target.options.TagTTL)
	target.expect("registry.test/team/app:"+cosignTag(image.Digest, ".sig"), signature, OutcomeStale)
	if p := target.pinNow(ref); p.ReferrersWant != 2 || p.Referrers != 2 {
		t.Errorf("the pin: %+v", p)
	}
}

// TestReferrersInLayoutsOfOthers come too: those of oras, of regctl and of cosign save.
func TestReferrersInLayoutsOfOthers(t *testing.T) {
	source, image, signature, sbom, deeper := signedHome(t)
	d := image.Descriptor.Digest
	archive := source.exported(ExportOptions{References: []Reference{reference(t, "local/app:v1")}})
	line := func(m *Manifest, key, value string) specs.Descriptor {
		l := m.Descriptor
		if key != "" {
			l.Annotations = map[string]string{key: value}
		}
		return l
	}
	list := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{sbom.Descriptor}}
	list.SchemaVersion = 2
	encoded := mustJSON(t, list)
	listed := &Manifest{Descriptor: specs.Descriptor{MediaType: list.MediaType, Digest: digest.FromBytes(encoded), Size: int64(len(encoded))}}
	for title, c := range map[string]struct {
		lines  []specs.Descriptor
		sboms  []digest.Digest
		signed bool
		o      ImportOptions
	}{
		"oras":   {[]specs.Descriptor{line(deeper, "", ""), line(sbom, "", ""), line(image, specs.AnnotationRefName, "v1")}, sorted(sbom.Descriptor.Digest), false, ImportOptions{Name: reference(t, "local/app:v1")}},
		"regctl": {[]specs.Descriptor{line(listed, specs.AnnotationRefName, referrersTag(d)), line(signature, specs.AnnotationRefName, cosignTag(d, ".sig")), line(image, specs.AnnotationRefName, "v1")}, sorted(sbom.Descriptor.Digest), true, ImportOptions{Name: reference(t, "local/app:v1")}},
		"cosign": {[]specs.Descriptor{line(image, "kind", "dev.cosignproject.cosign/image"), line(signature, "kind", "dev.cosignproject.cosign/sigs")}, nil, true, ImportOptions{Name: reference(t, "local/app:v1")}},
		"names":  {[]specs.Descriptor{line(signature, specs.AnnotationRefName, "local/app:"+cosignTag(d, ".sig")), line(image, specs.AnnotationRefName, "local/app:v1")}, nil, true, ImportOptions{}},
	} {
		index := mustJSON(t, map[string]any{"schemaVersion": 2, "manifests": c.lines})
		layout := rewritten(t, archive, func(h *tar.Header, content []byte) []byte {
			switch {
			case h.Name == "index.json":
				return index
			case title == "regctl" && h.Name == blobPath(deeper.Descriptor.Digest):
				h.Name = blobPath(listed.Descriptor.Digest)
				return encoded
			}
			return content
		})
		target := gap(t)
		done, err := target.imported(layout, c.o)
		if err != nil || len(done.Images) != 1 || !slices.Equal(target.listed(atHome, d), c.sboms) {
			t.Errorf("%s: %+v, %v, %v", title, done, err, target.listed(atHome, d))
			continue
		}
		if _, signed := target.tagged("local/app:" + cosignTag(d, ".sig")); signed != c.signed {
			t.Errorf("%s: signed is %t", title, signed)
		}
	}
	// Alone it is an image like others, which has no name.
	index := mustJSON(t, map[string]any{"schemaVersion": 2, "manifests": []specs.Descriptor{line(deeper, "", "")}})
	alone := rewritten(t, archive, func(h *tar.Header, content []byte) []byte {
		if h.Name == "index.json" {
			return index
		}
		return content
	})
	target := gap(t)
	_, err := target.imported(alone, ImportOptions{})
	if wantCode(t, err, CodeArchiveInvalid); !strings.Contains(err.Error(), "--name") {
		t.Error(err)
	}
	if done, err := target.imported(alone, ImportOptions{Name: reference(t, "local/app@"+deeper.Descriptor.Digest.String())}); err != nil || len(done.Images) != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}
