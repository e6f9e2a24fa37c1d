package registry

import (
	"context"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// name gives images their names. All that they need is here and held.
func (i *importing) name(ctx context.Context, images []arrived) error {
	var cached []arrived
	for _, image := range images {
		if i.r.homeOf(image.ref.Repository) == nil {
			cached = append(cached, image)
			continue
		}
		if err := i.nameAtHome(image); err != nil {
			return err
		}
	}
	if err := i.nameCached(cached); err != nil {
		return err
	}
	for _, image := range images {
		v, err := i.r.operatorView(image.ref.Repository)
		if err != nil {
			return err
		}
		for _, m := range image.plan.manifests {
			i.r.pass(v, m)
		}
		i.r.store.Touch(image.top.Descriptor.Digest)
	}
	nudge(i.r.listed)
	return ctx.Err()
}

// nameAtHome enters an image into a home, as if it had been pushed: what it
// names before what names it.
func (i *importing) nameAtHome(image arrived) error {
	i.r.pushing.RLock()
	defer i.r.pushing.RUnlock()
	in := image.ref.Repository
	for _, b := range image.plan.blobs {
		if err := i.r.enterBlob(in, b.Digest); err != nil {
			return err
		}
	}
	for n := len(image.plan.manifests) - 1; n >= 0; n-- { // the top is the first
		m := image.plan.manifests[n]
		ref := Reference{Repository: in, Digest: m.Descriptor.Digest}
		if n == 0 {
			ref = image.ref
		}
		if err := i.r.enterManifest([]Reference{ref}, m, subjectOf(m)); err != nil {
			return err
		}
	}
	return nil
}

// nameCached enters images of upstreams, all in one transaction: that they are
// in their repositories, and what their tags mean. Nobody but the operator has
// said so, so that they are seen by whom its credential counts for.
func (i *importing) nameCached(images []arrived) error {
	if len(images) == 0 {
		return nil
	}
	rows := make([]tagRow, len(images))
	err := i.r.state.db.Update(func(tx *bolt.Tx) error {
		for n, image := range images {
			if err := putHolds(tx, image.ref.Repository, image.plan.digests(), false); err != nil {
				return err
			}
			if image.ref.Tag == "" {
				continue
			}
			rows[n] = i.rowOf(image)
			if err := put(tx, bucketTags, image.ref.String(), rows[n]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for n, image := range images {
		if image.ref.Tag != "" {
			i.r.move(image.ref, rows[n])
		}
		// As with a pin's referrers: they stay with what they refer to, and are listed while upstream is away.
		if image.of != "" {
			if err := i.r.store.SetRefs(image.of, []digest.Digest{image.top.Descriptor.Digest}); err != nil {
				return err
			}
		}
	}
	return nil
}

// rowOf is the row of an imported tag. It counts as confirmed now, and upstream
// is asked after the tag's lifetime, as ever. What anybody could see stays so.
func (i *importing) rowOf(image arrived) tagRow {
	d := image.top.Descriptor
	row := tagRow{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, Checked: i.r.now()}
	if before, ok := i.r.tagged(image.ref.String()); ok && before.row.Digest == d.Digest {
		row.Public = before.row.Public
	}
	return row
}

// digests are those of all that a plan has.
func (p *plan) digests() (all []digest.Digest) {
	for _, m := range p.manifests {
		all = append(all, m.Descriptor.Digest)
	}
	for _, b := range p.blobs {
		all = append(all, b.Digest)
	}
	return all
}
