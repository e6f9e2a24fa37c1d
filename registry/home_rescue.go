package registry

import (
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

// homeEntries are what index.json lists of the homes: every manifest that was
// pushed, by its digest and with its root. Tags have entries of their own.
func (r *Registry) homeEntries() (all []specs.Descriptor) {
	err := each(r.state, bucketHome, func(key string, row homeRow) error {
		if row.MediaType == "" {
			return nil // its manifest keeps it, and one that has none yet is no image
		}
		_, d, _ := strings.Cut(key, "@")
		all = append(all, specs.Descriptor{MediaType: row.MediaType, Digest: digest.Digest(d), Size: row.Size,
			Annotations: map[string]string{specs.AnnotationRefName: key, layerstore.RootAnnotation: rootOfHome + key}})
		return nil
	})
	if err != nil {
		r.log.Error("what was pushed is not listed in index.json", "error", err)
	}
	return all
}

// takeHome finds what was pushed by the roots that keep it: a manifest, and
// with it the blobs that it names, which were in its repository when it came.
func (found rescued) takeHome(store *layerstore.Store, roots map[string]digest.Digest, now time.Time) {
	for name, d := range roots {
		key, ok := strings.CutPrefix(name, rootOfHome)
		repository, _, named := strings.Cut(key, "@")
		info, err := store.Stat(d)
		if !ok || !named || !canonical(key) || err != nil {
			continue
		}
		row := homeRow{Size: info.Size, At: now.Unix()}
		if content, err := store.ReadAll(d, maxManifest); err == nil && (isImage(info.MediaType) || isIndex(info.MediaType)) {
			m := &Manifest{Descriptor: specs.Descriptor{MediaType: info.MediaType}, Content: content}
			row.MediaType, row.Subject, row.ArtifactType = info.MediaType, subjectOf(m), asReferrer(m).ArtifactType
			found.takeBlobs(store, repository, info.MediaType, content, now)
		}
		found.home[key] = row
	}
}

func (found rescued) takeBlobs(store *layerstore.Store, repository, mediaType string, content []byte, now time.Time) {
	p, err := parseManifest(mediaType, content)
	if err != nil || isIndex(mediaType) {
		return
	}
	for _, b := range p.blobs() {
		key := repository + "@" + b.Digest.String()
		info, err := store.Stat(b.Digest)
		if _, known := found.home[key]; !known && err == nil {
			found.home[key] = homeRow{Size: info.Size, At: now.Unix()}
		}
	}
}

func (found rescued) writeHome(tx *bolt.Tx) error {
	for key, row := range found.home {
		ref, err := ParseReference(key)
		if err == nil {
			err = enter(tx, ref.Repository, ref.Digest, row)
		}
		if err != nil {
			return errors.Join(err, tx.Bucket(bucketHome).Delete([]byte(key)))
		}
	}
	return nil
}
