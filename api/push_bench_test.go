package api

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// pusher is a server that is pushed to over real connections, client included.
type pusher struct {
	b      *testing.B
	url    string
	number atomic.Int64
}

// newPusher gives one whose benchmark tells at its end how many transactions of
// the two databases a push took: each is two syncs, and those of many clients at
// once are to share them.
func newPusher(b *testing.B) *pusher {
	folder := b.TempDir()
	store, err := layerstore.Open(layerstore.Options{Root: filepath.Join(folder, "root"), Describe: registry.Describe, ScrubRate: -1})
	if err != nil {
		b.Fatal(err)
	}
	state := filepath.Join(folder, "registry.db")
	r, err := registry.New(registry.Options{Store: store, Path: state, Open: true})
	if err != nil {
		b.Fatal(err)
	}
	p := &pusher{b: b, url: listen(b, New(Options{Registry: r, Push: true}).Mirror())}
	b.Cleanup(func() {
		if err := r.Close(); err != nil {
			b.Error(err)
		}
		if err := store.Close(); err != nil {
			b.Error(err)
		}
		n := transactions(b, state) + transactions(b, filepath.Join(folder, "root", "layerstore.db"))
		b.ReportMetric(float64(n)/float64(p.number.Load()), "transactions/push")
	})
	return p
}

func transactions(b *testing.B, path string) (n int) {
	b.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		b.Fatal(err)
	}
	return n
}

// send does a request that is to succeed, and gives the Location of its answer.
func (p *pusher) send(method, path string, body []byte) string {
	req, err := http.NewRequest(method, p.url+path, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	if method == http.MethodPut {
		req.Header.Set("Content-Type", specs.MediaTypeImageManifest)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	if content, _ := io.ReadAll(res.Body); res.StatusCode/100 != 2 {
		panic(fmt.Sprint(method, " ", path, ": ", res.Status, " ", string(content)))
	}
	return res.Header.Get("Location")
}

func (p *pusher) blob(content []byte) specs.Descriptor {
	d := digest.FromBytes(content)
	p.send(http.MethodPut, p.send(http.MethodPost, "/v2/local/app/blobs/uploads/", nil)+"?digest="+d.String(), content)
	return specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: d, Size: int64(len(content))}
}

// picture is an image of three layers, each of 20 kB.
type picture struct {
	blobs    [][]byte
	manifest []byte
}

func newPicture() picture {
	var p picture
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for range 4 {
		content := make([]byte, 20000)
		_, _ = rand.Read(content) // never fails
		p.blobs = append(p.blobs, content)
		m.Layers = append(m.Layers, specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: 20000})
	}
	m.Config, m.Layers = m.Layers[0], m.Layers[1:]
	p.manifest, _ = json.Marshal(m)
	return p
}

// image pushes what a registry may have already, as clients do.
func (p *pusher) image(i picture, tag string) {
	for _, content := range i.blobs {
		res, err := http.Head(p.url + "/v2/local/app/blobs/" + digest.FromBytes(content).String())
		if err != nil {
			panic(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			p.blob(content)
		}
	}
	p.send(http.MethodPut, "/v2/local/app/manifests/"+tag, i.manifest)
}

// BenchmarkPush is what a push costs, each with the syncs after which it may be
// acknowledged.
func BenchmarkPush(b *testing.B) {
	b.Run("blob-16M", func(b *testing.B) {
		p, content := newPusher(b), make([]byte, 16<<20)
		b.SetBytes(int64(len(content)))
		for b.Loop() {
			_, _ = rand.Read(content[:16])
			p.blob(content)
			p.number.Add(1)
		}
	})
	b.Run("image-alone", func(b *testing.B) {
		p := newPusher(b)
		for b.Loop() {
			p.image(newPicture(), fmt.Sprint("v", p.number.Add(1)))
		}
	})
	b.Run("image-among-many", func(b *testing.B) {
		p := newPusher(b)
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				p.image(newPicture(), fmt.Sprint("v", p.number.Add(1)))
			}
		})
	})
	b.Run("image-again", func(b *testing.B) {
		p, i := newPusher(b), newPicture()
		for b.Loop() {
			p.image(i, "again")
			p.number.Add(1)
		}
	})
}
