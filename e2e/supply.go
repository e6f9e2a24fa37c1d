//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// supply is a registry of the least kind that never runs out of images nobody has pulled yet, and that can be gone.
type supply struct {
	url string

	mu        sync.RWMutex // guards what follows
	gone      bool
	manifests map[string][]byte // by "repository tag" and by digest
	blobs     map[digest.Digest][]byte
}

// parcel is an image of a supply, under the tag 1.
type parcel struct {
	repository string
	digest     digest.Digest
	blobs      []digest.Digest // config and layers
	pin        bool            // to be pinned, not only pulled
}

func (p *parcel) reference() string { return upstreamName + "/" + p.repository + ":1" }

// startSupply starts a supply without images. The end of the test ends it.
func startSupply(t *testing.T) *supply {
	t.Helper()
	s := &supply{manifests: map[string][]byte{}, blobs: map[digest.Digest][]byte{}}
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.url = server.URL
	return s
}

// setGone makes the supply answer everything with 503, or not.
func (s *supply) setGone(gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = gone
}

// stock forgets all images and makes n new ones: most of a few small layers, every sixth with a large one, every third to be pinned.
func (s *supply) stock(random *rand.Rand, name string, n int) (parcels []*parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.blobs)
	clear(s.manifests)
	for i := range n {
		p := &parcel{repository: fmt.Sprintf("%s/image%d", name, i), pin: i%3 == 0}
		sizes := []int{1 + random.IntN(60<<10), 1 + random.IntN(200<<10)}
		if i%6 == 5 {
			sizes = append(sizes, 2<<20+random.IntN(6<<20))
		}
		s.add(p, random, sizes)
		parcels = append(parcels, p)
	}
	return parcels
}

// All images of a family have this many layers of their own, of at most so many bytes, and share one: a collection takes some hundred files, and
// none that another needs.
const ownLayers, layerMost = 6, 2 << 10

// stockFamily makes n more images that share a layer, of small layers, every third to be pinned.
func (s *supply) stockFamily(random *rand.Rand, name string, n int) (parcels []*parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	base := bytes.Repeat([]byte("base"), 4<<10)
	for i := range n {
		p := &parcel{repository: fmt.Sprintf("%s/image%d", name, i), pin: i%3 == 0}
		layers := []specs.Descriptor{s.addBlob(p, specs.MediaTypeImageLayer, base)}
		for range ownLayers {
			layers = append(layers, s.addBlob(p, specs.MediaTypeImageLayer, randomContent(random, 1+random.IntN(layerMost))))
		}
		s.addImage(p, layers)
		parcels = append(parcels, p)
	}
	return parcels
}

// stockOne makes one more image, of layers of the given sizes.
func (s *supply) stockOne(random *rand.Rand, repository string, sizes []int) *parcel {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &parcel{repository: repository}
	s.add(p, random, sizes)
	return p
}

// add makes the image of a parcel. mu is held.
func (s *supply) add(p *parcel, random *rand.Rand, sizes []int) {
	var layers []specs.Descriptor
	for _, size := range sizes {
		layers = append(layers, s.addBlob(p, specs.MediaTypeImageLayer, randomContent(random, size)))
	}
	s.addImage(p, layers)
}

// addImage makes the config and the manifest of a parcel. mu is held.
func (s *supply) addImage(p *parcel, layers []specs.Descriptor) {
	image := specs.Image{Platform: specs.Platform{OS: "linux", Architecture: "amd64"}, Author: p.repository}
	config := s.addBlob(p, specs.MediaTypeImageConfig, encode(image))
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: config, Layers: layers}
	m.SchemaVersion = 2
	content := encode(m)
	p.digest = digest.FromBytes(content)
	s.manifests[p.repository+" 1"], s.manifests[p.digest.String()] = content, content
}

func (s *supply) addBlob(p *parcel, mediaType string, content []byte) specs.Descriptor {
	d := specs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	s.blobs[d.Digest] = content
	p.blobs = append(p.blobs, d.Digest)
	return d
}

func randomContent(random *rand.Rand, size int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(random.Uint32())
	}
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(content) // never fails
	return content
}

func encode(v any) []byte {
	content, err := json.Marshal(v)
	if err != nil {
		panic(err) // image-spec's types can be encoded
	}
	return content
}

func (s *supply) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	gone := s.gone
	_, hash, isBlob := parseBlobPath(r.URL.Path)
	blob := s.blobs[hash]
	repository, reference, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	manifest := s.manifests[reference]
	if manifest == nil {
		manifest = s.manifests[repository+" "+reference]
	}
	s.mu.RUnlock()
	switch {
	case gone:
		http.Error(w, "gone", http.StatusServiceUnavailable)
	case r.URL.Path == "/v2/":
	case isBlob && blob != nil:
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
	case manifest != nil:
		w.Header().Set("Content-Type", specs.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(manifest))
	default:
		http.NotFound(w, r)
	}
}
