package registry

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

// Pushed tells what became of a manifest that was pushed.
type Pushed struct {
	Digest digest.Digest
	// Subject is the manifest among whose referrers it is listed, "" for none: an
	// upstream may list none, and leave that to its clients.
	Subject digest.Digest
	// Warnings are for the client's user: distribution-spec, "Warnings".
	Warnings []string
}

// notHome refuses to delete what is somebody else's.
func notHome(in Repository) *Error {
	return &Error{Code: CodeUnsupported, Reference: in.String(), Message: in.Registry + ` is an upstream: what it has is deleted there, or through us where push = "through" is set for it`}
}

// PutManifest takes a manifest or an index into a home, byte for byte: what it
// names must have been pushed to the repository before, but for its subject,
// for layers that are not distributed, for the children of an index, and, in a
// home that is [UpstreamOptions.Sparse], for config and layers. It is durable
// when it returns. mediaType is the value of a Content-Type header, ""
// for none. Errors have [CodeUnsupported] where the registry is
// no home, [CodeManifestInvalid], [CodeManifestBlobUnknown], [CodeDigestInvalid]
// where the content is not that of the digest in ref, [CodePinned] where a
// tag is frozen at another digest. The manifest gets further tags of the same
// repository besides the one in ref.
func (r *Registry) PutManifest(ctx context.Context, ref Reference, mediaType string, content []byte, further ...Reference) (Pushed, error) {
	through, err := r.destination(ctx, ref.Repository)
	if err != nil {
		return Pushed{}, err
	}
	m, subject, err := pushedManifest(ref, mediaType, content, r)
	if err != nil {
		return Pushed{}, r.about(ref.String(), err)
	}
	all := append([]Reference{ref}, further...)
	for _, ref := range all {
		if pin, pinned := r.pinned(ref); pinned && ref.Digest == "" && pin.Digest != m.Descriptor.Digest {
			return Pushed{}, pinnedError(ref.String())
		}
	}
	pushed := Pushed{Digest: m.Descriptor.Digest}
	if subject != nil {
		pushed.Subject = subject.Digest
	}
	if through != nil {
		return r.pushThrough(ctx, *through, all, m, pushed)
	}
	// Both from before the look at what it names, so that nothing goes in between.
	r.pushing.RLock()
	defer r.pushing.RUnlock()
	lease := r.store.Lease()
	defer lease.Release()
	lease.Hold(append(m.parsed.digests(), m.Descriptor.Digest)...)
	missing, err := r.missingIn(ref.Repository, m, subject)
	if err != nil {
		return Pushed{}, r.about(ref.String(), err)
	}
	pushed.Warnings = missing.warnings()
	if err := r.store.PutRooted(ctx, homeRoot(ref.Repository, m.Descriptor.Digest), m.Descriptor, m.Content, m.parsed.digests()...); err != nil {
		return Pushed{}, err
	}
	return pushed, r.enterManifest(all, m, pushed.Subject)
}

// pushThrough sends a manifest on, under each of refs.
func (r *Registry) pushThrough(ctx context.Context, v view, refs []Reference, m *Manifest, pushed Pushed) (Pushed, error) {
	for _, ref := range refs {
		listed, err := r.passManifest(ctx, v, ref, m)
		if err != nil {
			return Pushed{}, err
		}
		if listed != pushed.Subject {
			pushed.Subject = ""
		}
	}
	return pushed, nil
}

// enterManifest makes a manifest that is durable one of its repository, under
// all tags among refs: first the root, which it mostly has by now, so that a kill
// leaves one too many rather than one too few.
func (r *Registry) enterManifest(refs []Reference, m *Manifest, subject digest.Digest) error {
	in, d := refs[0].Repository, m.Descriptor
	if err := r.store.SetRoot(homeRoot(in, d.Digest), d.Digest); err != nil {
		return err
	}
	tags := slices.DeleteFunc(slices.Clone(refs), func(ref Reference) bool { return ref.Digest != "" })
	row := homeRow{MediaType: d.MediaType, Size: d.Size, At: r.now().Unix(), Subject: subject, ArtifactType: asReferrer(m).ArtifactType}
	tag := tagRow{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, Checked: r.now()}
	defer r.turns.take(keysOf(tags)...)()
	if r.pushedBefore(in, d.Digest, row, tags) {
		return nil
	}
	err := r.state.db.Batch(func(tx *bolt.Tx) error {
		err := enter(tx, in, d.Digest, row)
		for _, ref := range tags {
			err = errors.Join(err, put(tx, bucketTags, ref.String(), tag))
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(m.Content) <= manifestSmall {
		r.remember(m)
	}
	r.mu.Lock()
	for _, ref := range tags {
		r.tags[ref.String()] = newTag(tag)
	}
	r.mu.Unlock()
	nudge(r.listed)
	return nil
}

// keysOf are the keys of the rows of tags.
func keysOf(tags []Reference) []string {
	keys := make([]string, len(tags))
	for i, ref := range tags {
		keys[i] = ref.String()
	}
	return keys
}

// enter writes the rows of something that was pushed.
func enter(tx *bolt.Tx, in Repository, d digest.Digest, row homeRow) error {
	key := string(holdKey(in, d))
	if err := errors.Join(put(tx, bucketHome, key, row), putReferrer(tx, key, row)); err != nil {
		return err
	}
	return putHolds(tx, in, []digest.Digest{d}, false)
}

// enterPushed is enterBlob for who does not hold pushing.
func (r *Registry) enterPushed(in Repository, d digest.Digest) error {
	r.pushing.RLock()
	defer r.pushing.RUnlock()
	return r.enterBlob(in, d)
}

// enterBlob makes a sealed blob one of a repository. Who calls holds pushing.
func (r *Registry) enterBlob(in Repository, d digest.Digest) error {
	r.unnamed.forget(string(holdKey(in, d)))
	info, err := r.store.Stat(d)
	if err != nil {
		return err
	}
	if err := r.store.SetRoot(homeRoot(in, d), d); err != nil {
		return err
	}
	if _, err := r.store.Stat(d); err != nil {
		return err // it went before it had its root
	}
	row := homeRow{Size: info.Size, At: r.now().Unix()}
	if r.pushedBefore(in, d, row, nil) {
		return nil
	}
	return r.state.db.Batch(func(tx *bolt.Tx) error {
		var known homeRow
		if value := tx.Bucket(bucketHome).Get(holdKey(in, d)); value != nil && json.Unmarshal(value, &known) == nil && known.MediaType != "" {
			return nil // the same bytes are a manifest here, and are to stay one
		}
		return enter(tx, in, d, row)
	})
}

// MountBlob makes a blob of another repository, which the caller may see and
// which is here, one of a home. mounted is false where it is not: then the
// client uploads it.
func (r *Registry) MountBlob(ctx context.Context, in Repository, d digest.Digest, from Repository) (mounted bool, err error) {
	if through, err := r.destination(ctx, in); err != nil || through != nil {
		return false, err // upstream would mount by the caller's credential alone
	}
	lease := r.store.Lease()
	defer lease.Release()
	lease.Hold(d)
	if _, err := r.store.Stat(d); err != nil {
		return false, nil
	}
	if _, _, err := r.BlobInfo(ctx, from, d); err != nil {
		return false, nil // whatever the reason: it would tell what is in there
	}
	err = r.enterPushed(in, d)
	if errors.Is(err, layerstore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Holders lists the repositories of homes to which a manifest or blob was
// pushed, sorted.
func (r *Registry) Holders(ctx context.Context, d digest.Digest) ([]Repository, error) {
	names, err := r.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	var holders []Repository
	err = r.state.db.View(func(tx *bolt.Tx) error {
		for _, name := range names {
			registry, path, _ := strings.Cut(name, "/")
			in := Repository{Registry: registry, Path: path}
			if tx.Bucket(bucketHome).Get(holdKey(in, d)) != nil {
				holders = append(holders, in)
			}
		}
		return nil
	})
	return holders, err
}

// DeleteTag takes a tag away; what it means stays. One that is pinned is
// refused with [CodePinned].
func (r *Registry) DeleteTag(ctx context.Context, ref Reference) error {
	if r.homeOf(ref.Repository) == nil {
		return r.deleteTagThrough(ctx, ref)
	}
	if _, pinned := r.pinned(ref); pinned {
		return pinnedError(ref.String())
	}
	if _, ok := r.tagged(ref.String()); !ok {
		return notPushed(CodeManifestUnknown, ref.String())
	}
	defer nudge(r.listed)
	return r.untag([]string{ref.String()})
}

// DeleteManifest takes a manifest out of a home, with the tags that mean it.
// Blobs that nothing names then go an hour or two later, when no client can still
// be about to name them, or with a [Registry.Collect] then.
// One that is pinned is refused with [CodePinned].
func (r *Registry) DeleteManifest(ctx context.Context, in Repository, d digest.Digest) error {
	u := r.homeOf(in)
	if u == nil {
		return r.deleteManifestThrough(ctx, in, d)
	}
	r.pushing.Lock()
	defer r.pushing.Unlock()
	ref := Reference{Repository: in, Digest: d}
	if row, err := u.home.row(in, d); err != nil || row.MediaType == "" {
		return notPushed(CodeManifestUnknown, ref.String())
	}
	if err := r.unpinned(in, d); err != nil {
		return err
	}
	keys, err := r.tagsOf(in, d)
	if err != nil {
		return err
	}
	named, err := r.store.Refs(d)
	if err != nil && !errors.Is(err, layerstore.ErrNotFound) {
		return err
	}
	if err := r.untag(keys); err != nil {
		return err
	}
	if err := r.leave(in, d); err != nil {
		return err
	}
	return r.unname(in, named)
}

// DeleteBlob takes a blob out of a home. A manifest that names it is then
// incomplete, as the specification has it; what a pin of the repository needs is
// refused with [CodePinned].
func (r *Registry) DeleteBlob(ctx context.Context, in Repository, d digest.Digest) error {
	u := r.homeOf(in)
	if u == nil {
		return r.deleteBlobThrough(ctx, in, d)
	}
	r.pushing.Lock()
	defer r.pushing.Unlock()
	switch row, err := u.home.row(in, d); {
	case err != nil:
		return err
	case row.MediaType != "": // its tags would mean nothing
		return notPushed(CodeBlobUnknown, string(holdKey(in, d)))
	}
	if err := r.unpinned(in, d); err != nil {
		return err
	}
	return r.leave(in, d)
}

// leave takes manifests or blobs out of a repository: their rows first, so that a
// kill leaves a root too many, which the next start takes away. Their bytes go with
// the next sweep, or after a restart when room is wanted. Who calls holds pushing
// for writing: what is pushed again between rows and roots would lose the root.
func (r *Registry) leave(in Repository, all ...digest.Digest) error {
	roots := make([]string, len(all))
	for i, d := range all {
		roots[i] = homeRoot(in, d)
	}
	defer func() {
		for _, d := range all {
			r.unnamed.forget(string(holdKey(in, d)))
		}
	}()
	err := r.state.db.Batch(func(tx *bolt.Tx) error {
		var errs error
		for _, d := range all {
			key := holdKey(in, d)
			errs = errors.Join(errs, deleteReferrer(tx, string(key)), tx.Bucket(bucketHome).Delete(key), tx.Bucket(bucketHolds).Delete(key))
		}
		return errs
	})
	if err != nil {
		return err
	}
	for _, d := range all {
		r.shown.Remove(string(holdKey(in, d)))
		r.unnamed.leaves(d)
	}
	nudge(r.listed)
	return r.store.ChangeRoots(nil, roots)
}
