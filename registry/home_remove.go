package registry

import (
	"github.com/opencontainers/go-digest"
)

// removeFromHome takes an image out of a home that no tag means any more, and
// with it what no other manifest of the repository names. What is tagged,
// pinned or named itself stays.
func (r *Registry) removeFromHome(in Repository, image digest.Digest) error {
	r.pushing.Lock()
	defer r.pushing.Unlock()
	pushed, err := r.pushedTo(in)
	if err != nil {
		return err
	}
	named := map[digest.Digest]int{} // how many manifests name each
	for _, names := range pushed {
		for _, d := range names {
			named[d]++
		}
	}
	for going := []digest.Digest{image}; len(going) > 0; going = going[1:] {
		d := going[0]
		names, here := pushed[d]
		if !here || named[d] > 0 || r.meant(in, d) {
			continue
		}
		if err := r.leave(in, d); err != nil {
			return err
		}
		delete(pushed, d)
		for _, child := range names {
			named[child]--
		}
		going = append(going, names...)
	}
	return nil
}

// pushedTo is all that was pushed to a repository, with what it names.
func (r *Registry) pushedTo(in Repository) (map[digest.Digest][]digest.Digest, error) {
	pushed := map[digest.Digest][]digest.Digest{}
	var manifests []digest.Digest
	err := r.eachPushed(in, func(d digest.Digest, row homeRow) error {
		pushed[d] = nil
		if row.MediaType != "" {
			manifests = append(manifests, d)
		}
		return nil
	})
	for _, d := range manifests {
		if err != nil {
			return nil, err
		}
		pushed[d], err = r.store.Refs(d)
	}
	return pushed, err
}

// meant reports whether a tag or a pin of a repository means a digest.
func (r *Registry) meant(in Repository, d digest.Digest) bool {
	tags, err := r.tagsOf(in, d)
	return err != nil || len(tags) > 0 // the error is that it is pinned
}
