package registry

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
)

// cosignSuffixes are of the tags by which cosign finds what belongs to an image
// where it uses no referrers: signatures, attestations, SBOMs. The tag is the
// image's digest, a dash in place of the colon, and one of these.
var cosignSuffixes = []string{".sig", ".att", ".sbom"}

func cosignTag(of digest.Digest, suffix string) string {
	return of.Algorithm().String() + "-" + of.Encoded() + suffix
}

// fetchCosign brings what cosign's tags name for a manifest, and ties it to the
// manifest as a referrer is, so that it stays with the pin and the tags are
// answered while upstream is away. What upstream does not have any more stays.
func (r *Registry) fetchCosign(ctx context.Context, v view, of digest.Digest) error {
	for _, suffix := range cosignSuffixes {
		ref := Reference{Repository: v.repository, Tag: cosignTag(of, suffix)}
		m, err := r.currentOf(ctx, v, ref)
		var e *Error
		if errors.As(err, &e) && (e.Code == CodeManifestUnknown || e.Code == CodeNameUnknown) {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.tie(ctx, v, of, m); err != nil {
			return err
		}
		if err := r.settleTag(ref, m.Descriptor.Digest); err != nil {
			return err
		}
	}
	return nil
}

// currentOf gives what a tag means upstream now. Whether there is one is asked
// by HEAD, which registries do not count.
func (r *Registry) currentOf(ctx context.Context, v view, ref Reference) (*Manifest, error) {
	if known, ok := r.tagged(ref.String()); ok {
		now, err := r.refresh(ctx, v, ref, known)
		if err != nil {
			return nil, err
		}
		m, _, err := r.byDigest(ctx, v, now.row.Digest)
		return m, err
	}
	if _, err := v.upstream.head(ctx, ref.Path, ref.Tag); err != nil && !errors.Is(err, errNoHead) {
		return nil, err
	}
	m, _, err := r.fetchTag(ctx, v, ref)
	return m, err
}
