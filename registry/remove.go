package registry

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// Remove forgets an image and deletes what no other cached image needs. A
// digest forgets every tag of the repository that means it. Out of a home goes
// what was pushed and is neither tagged nor named any more. A pinned image is
// refused with [CodePinned], one that is not cached with [CodeManifestUnknown].
func (r *Registry) Remove(_ context.Context, ref Reference) (Removed, error) {
	d, keys, err := r.toRemove(ref)
	if err != nil {
		return Removed{}, err
	}
	if err := r.untag(keys); err != nil {
		return Removed{}, err
	}
	if r.homeOf(ref.Repository) != nil {
		if err := r.removeFromHome(ref.Repository, d); err != nil {
			return Removed{}, err
		}
	}
	removed := Removed{References: keys}
	if ref.Digest != "" && len(keys) == 0 {
		removed.References = []string{ref.String()}
	}
	// The layout must not name what is not there any more.
	if err := r.list(); err != nil {
		return Removed{}, err
	}
	keep := r.digestsOfTags(nil)
	freed, err := r.store.Remove([]digest.Digest{d}, keep)
	r.manifests.Purge() // a removed manifest must not live on in memory
	r.passages.removed()
	removed.Blobs, removed.Bytes = freed.Blobs, freed.Bytes
	nudge(r.listed)
	return removed, err
}

// toRemove finds the digest and the tags that go with it.
func (r *Registry) toRemove(ref Reference) (d digest.Digest, keys []string, err error) {
	if _, pinned := r.pinned(ref); pinned {
		return "", nil, pinnedError(ref.String())
	}
	if ref.Digest == "" {
		t, ok := r.tagged(ref.String())
		if !ok {
			return "", nil, nothingToRemove(ref)
		}
		return t.row.Digest, []string{ref.String()}, nil
	}
	keys, err = r.tagsOf(ref.Repository, ref.Digest)
	if err != nil {
		return "", nil, err
	}
	if _, err := r.store.Stat(ref.Digest); errors.Is(err, layerstore.ErrNotFound) && len(keys) == 0 {
		return "", nil, nothingToRemove(ref)
	}
	return ref.Digest, keys, nil
}

func nothingToRemove(ref Reference) *Error {
	return &Error{Code: CodeManifestUnknown, Reference: ref.String(), Message: "not cached, so there is nothing to remove"}
}

// tagsOf lists the tags of a repository that mean a digest. A pin of it is an error.
func (r *Registry) tagsOf(in Repository, d digest.Digest) (keys []string, err error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	prefix := in.String() + ":"
	for key, row := range r.pins {
		if row.Digest == d && (strings.HasPrefix(key, prefix) || strings.HasPrefix(key, in.String()+"@")) {
			return nil, pinnedError(key)
		}
	}
	for key, t := range r.tags {
		if strings.HasPrefix(key, prefix) && t.row.Digest == d {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func pinnedError(reference string) *Error {
	return &Error{Code: CodePinned, Reference: reference, Message: "pinned; run imagecache unpin first"}
}

// knownTags lists the tags of a repository that are known here and may be seen.
func (r *Registry) knownTags(v view) (tags []string) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for key, t := range r.tags {
		if name, ok := strings.CutPrefix(key, v.repository.String()+":"); ok && v.may(t.row.Public) {
			tags = append(tags, name)
		}
	}
	slices.Sort(tags)
	return tags
}
