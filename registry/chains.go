package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

var (
	bucketChains = []byte("chains")
	bucketRootFS = []byte("rootfs")
	keyChained   = []byte("chained")

	// ErrNoChain: no image that is here has layers with this chain ID.
	ErrNoChain = errors.New("no image that is here has layers with this chain ID")
)

const (
	// chainsVersion is of the rows of chains; a file without them, or with
	// older ones, gets them from the manifests and configs that are here.
	chainsVersion = "1"
	// candidatesMost bounds how many images that have a chain are looked at:
	// hundreds may share a base, and nearly always the first one will do.
	candidatesMost = 32
)

// rootRow is an image whose chains are in the index.
type rootRow struct {
	Repository string          `json:"repository"`
	Chains     []digest.Digest `json:"chains"`
}

// chainKey is "<chain> <manifest>".
func chainKey(chain, manifest digest.Digest) []byte {
	return []byte(chain.String() + " " + manifest.String())
}

// Chain tells of an image whose layers up to some one give this chain ID, its
// Layers cut behind that. Of several, one whose layers are all here or on their
// way comes first. While the config of an image is on its way that somebody
// asked for just now, it waits for it, by ctx and not for long. Manifest and
// config of what it gives are here; layers need not be. Error: [ErrNoChain], or
// the cause of ctx.
func (r *Registry) Chain(ctx context.Context, chain digest.Digest) (RootFS, error) {
	under := r.passages.underWay()
	image, ok := r.chained(chain)
	if !ok && len(under) > 0 {
		if err := waitFor(ctx, under); err != nil {
			return RootFS{}, err
		}
		image, ok = r.chained(chain)
	}
	if !ok {
		return RootFS{}, ErrNoChain
	}
	r.store.Touch(image.Manifest.Digest)
	return image, nil
}

// chained looks a chain up among what is known.
func (r *Registry) chained(chain digest.Digest) (best RootFS, ok bool) {
	for _, c := range r.candidates(chain) {
		image, known := r.rootFSHere(c.manifest, c.in)
		cut, has := image.upTo(chain)
		if !known || !has {
			continue
		}
		if r.layersPresent(cut) {
			return cut, true
		}
		if !ok {
			best, ok = cut, true
		}
	}
	return best, ok
}

func (r *Registry) layersPresent(image RootFS) bool {
	for _, l := range image.Layers {
		if !r.present(l.Digest) {
			return false
		}
	}
	return true
}

// candidate is an image that the index names for a chain.
type candidate struct {
	manifest digest.Digest
	in       Repository
}

func (r *Registry) candidates(chain digest.Digest) (found []candidate) {
	prefix := chainKey(chain, "")
	err := r.state.db.View(func(tx *bolt.Tx) error {
		rows := tx.Bucket(bucketChains).Cursor()
		for key, _ := rows.Seek(prefix); bytes.HasPrefix(key, prefix) && len(found) < candidatesMost; key, _ = rows.Next() {
			manifest := digest.Digest(key[len(prefix):])
			row, err := rootRowIn(tx, manifest)
			if err != nil {
				return err
			}
			if ref, err := ParseReference(row.Repository + "@" + manifest.String()); err == nil {
				found = append(found, candidate{manifest, ref.Repository})
			}
		}
		return nil
	})
	if err != nil {
		r.log.Error("chain not looked up", "chain", chain, "error", err)
	}
	return found
}

// rootRowIn is the row of a manifest, the zero value for none.
func rootRowIn(tx *bolt.Tx, manifest digest.Digest) (row rootRow, err error) {
	value := tx.Bucket(bucketRootFS).Get([]byte(manifest.String()))
	if value == nil {
		return row, nil
	}
	return row, json.Unmarshal(value, &row)
}

// rootFSHere is what an image is made of, by manifest and config that are here.
func (r *Registry) rootFSHere(manifest digest.Digest, in Repository) (RootFS, bool) {
	if image, ok := r.passages.images.Get(manifest); ok {
		return image, true
	}
	m, err := r.local(manifest)
	if err != nil || m.parsed.config == nil {
		return RootFS{}, false
	}
	config, err := r.store.ReadAll(m.parsed.config.Digest, maxManifest)
	if err != nil {
		return RootFS{}, false
	}
	image, err := rootFSOf(in, m, config)
	if err != nil {
		return RootFS{}, false
	}
	r.passages.hold(image)
	if !r.hasManifest(manifest) { // it was evicted while it was read
		r.passages.images.Remove(manifest)
	}
	return image, true
}

func (r *Registry) hasManifest(d digest.Digest) bool {
	_, err := r.local(d)
	return err == nil
}

// index writes the chains of an image, unless they stand there.
func (r *Registry) index(images ...RootFS) error {
	images = slices.DeleteFunc(images, r.indexed)
	if len(images) == 0 {
		return nil
	}
	return r.state.db.Batch(func(tx *bolt.Tx) error {
		for _, image := range images {
			if err := putChains(tx, image); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *Registry) indexed(image RootFS) (known bool) {
	if len(image.Layers) == 0 {
		return true // it has no chain
	}
	err := r.state.db.View(func(tx *bolt.Tx) error {
		row, err := rootRowIn(tx, image.Manifest.Digest)
		known = row.Repository == image.Repository.String() && len(row.Chains) == len(image.Layers)
		return err
	})
	return known && err == nil
}

func putChains(tx *bolt.Tx, image RootFS) error {
	row := rootRow{Repository: image.Repository.String()}
	for _, l := range image.Layers {
		row.Chains = append(row.Chains, l.Chain)
		if err := tx.Bucket(bucketChains).Put(chainKey(l.Chain, image.Manifest.Digest), nil); err != nil {
			return err
		}
	}
	return put(tx, bucketRootFS, image.Manifest.Digest.String(), row)
}

// unindex drops the rows of manifests that are here no more.
func (r *Registry) unindex(manifests []digest.Digest) error {
	return r.state.db.Batch(func(tx *bolt.Tx) error {
		for _, d := range manifests {
			row, err := rootRowIn(tx, d)
			if err != nil {
				return err
			}
			for _, chain := range row.Chains {
				if err := tx.Bucket(bucketChains).Delete(chainKey(chain, d)); err != nil {
					return err
				}
			}
			if err := tx.Bucket(bucketRootFS).Delete([]byte(d.String())); err != nil {
				return err
			}
		}
		return nil
	})
}

// alignChains makes the index agree with what is here: rows of manifests that
// went go, and a file that never had such rows, or was made anew, gets them.
func (r *Registry) alignChains() {
	gone, whole, err := r.unalignedChains()
	if err == nil && len(gone) > 0 {
		err = r.unindex(gone)
	}
	if err == nil && !whole {
		err = r.rebuildChains()
	}
	if err != nil && r.ctx.Err() == nil {
		r.log.Error("index of chain IDs is not complete", "error", err)
	}
}

// unalignedChains are the manifests with rows that are here no more. whole says
// that the index was once made from all that is here.
func (r *Registry) unalignedChains() (gone []digest.Digest, whole bool, err error) {
	var indexed []digest.Digest
	err = r.state.db.View(func(tx *bolt.Tx) error {
		whole = string(tx.Bucket(bucketMeta).Get(keyChained)) == chainsVersion
		return tx.Bucket(bucketRootFS).ForEach(func(k, _ []byte) error {
			indexed = append(indexed, digest.Digest(k))
			return nil
		})
	})
	for _, d := range indexed {
		if _, err := r.store.Stat(d); errors.Is(err, layerstore.ErrNotFound) && !r.manifests.Contains(d) {
			gone = append(gone, d)
		}
	}
	return gone, whole, err
}

// rebuildStep is how many images share a write while the index is made anew.
const rebuildStep = 64

func (r *Registry) rebuildChains() error {
	in, err := r.repositories()
	if err != nil {
		return err
	}
	var images []RootFS
	for manifest, repository := range in {
		if r.ctx.Err() != nil {
			return nil // the next start begins again
		}
		if image, ok := r.rootFSHere(manifest, repository); ok {
			images = append(images, image)
		}
		if len(images) == rebuildStep {
			if err := r.index(images...); err != nil {
				return err
			}
			images = nil
		}
	}
	if err := r.index(images...); err != nil {
		return err
	}
	return r.state.db.Batch(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyChained, []byte(chainsVersion)) })
}

// repositories are the manifests that are here, each with a repository of which
// it is known that it has it, or that a tag or pin there leads to it.
func (r *Registry) repositories() (map[digest.Digest]Repository, error) {
	in := map[digest.Digest]Repository{}
	for key, top := range r.named() {
		ref, err := ParseReference(key)
		if err != nil {
			continue // of another version
		}
		reached, err := r.store.Closure(top)
		if err != nil {
			return nil, err
		}
		for d := range reached {
			in[d] = ref.Repository
		}
	}
	err := r.state.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketHolds).ForEach(func(k, _ []byte) error {
			if ref, err := ParseReference(string(k)); err == nil {
				in[ref.Digest] = ref.Repository
			}
			return nil
		})
	})
	for d := range in {
		if info, absent := r.store.Stat(d); absent != nil || !isImage(info.MediaType) {
			delete(in, d)
		}
	}
	return in, err
}

// goneChains are manifests that were evicted and whose rows are to go.
type goneChains struct {
	some chan struct{} // one token when there are any

	mu  sync.Mutex // guards set
	set []digest.Digest
}

func (g *goneChains) add(gone []digest.Digest) {
	g.mu.Lock()
	g.set = append(g.set, gone...)
	g.mu.Unlock()
	nudge(g.some)
}

func (g *goneChains) take() []digest.Digest {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := g.set
	g.set = nil
	return taken
}

// forgetChains drops rows of what goes, until the registry closes. What it does
// not come to is found at the next start.
func (r *Registry) forgetChains() {
	r.alignChains()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.passages.gone.some:
		}
		gone := slices.DeleteFunc(r.passages.gone.take(), func(d digest.Digest) bool { return !r.hasRootRow(d) })
		if len(gone) == 0 {
			continue
		}
		if err := r.unindex(gone); err != nil {
			r.log.Error("chains of evicted images not dropped", "error", err)
		}
	}
}

func (r *Registry) hasRootRow(d digest.Digest) (has bool) {
	_ = r.state.db.View(func(tx *bolt.Tx) error {
		has = tx.Bucket(bucketRootFS).Get([]byte(d.String())) != nil
		return nil
	})
	return has
}
