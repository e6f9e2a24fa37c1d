package api

import (
	"context"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry"
)

// What a shelf answers of pins as desired state: what it was asked, echoed.

func (s *shelf) PinsOf(_ context.Context, refs []registry.Reference, _ bool) (pins []registry.Pin, err error) {
	for _, ref := range refs {
		pins = append(pins, registry.Pin{Reference: ref.String()})
	}
	return pins, s.err
}

func (s *shelf) Update(ctx context.Context, ref registry.Reference, _ []string, progress func(registry.Progress)) (registry.Pin, error) {
	return registry.Pin{Reference: ref.String(), MovedFrom: "before"}, s.work(ctx, progress)
}

func (s *shelf) Rollback(_ context.Context, ref registry.Reference, to digest.Digest, _ bool, _ func(registry.Progress)) (registry.Pin, error) {
	return registry.Pin{Reference: ref.String(), Digest: to.String()}, s.err
}

func (s *shelf) Lock() registry.Lock {
	return registry.Lock{Pins: []registry.LockedPin{{Reference: "registry.test/app:v1", Digest: "sha256:00", Platforms: []string{"all"}}}}
}

func (s *shelf) Apply(_ context.Context, lock registry.Lock, o registry.ApplyOptions) (registry.Applied, error) {
	applied := registry.Applied{DryRun: o.DryRun}
	for _, p := range lock.Pins {
		applied.Changes = append(applied.Changes, registry.AppliedChange{Action: registry.ActionAdd, Reference: p.Reference, To: p.Digest})
	}
	return applied, s.err
}

func (s *shelf) Match(_ context.Context, pattern string) ([]registry.Reference, error) {
	return []registry.Reference{{Repository: registry.Repository{Registry: "registry.test", Path: "app"}, Tag: "v1"}}, s.err
}

func (s *shelf) Drill(_ context.Context, o registry.DrillOptions) (registry.Drilled, error) {
	return registry.Drilled{ForReal: o.ForReal, Failing: len(o.References)}, s.err
}

func (s *shelf) Referrers(_ context.Context, _ registry.Repository, of digest.Digest, q registry.ReferrersQuery) (registry.ReferrersPage, registry.Answer, error) {
	page := registry.ReferrersPage{Manifests: []specs.Descriptor{}}
	for _, kind := range []string{"application/sbom", "application/signature"} {
		if q.ArtifactType == "" || q.ArtifactType == kind {
			page.Manifests = append(page.Manifests, specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: of, Size: 1, ArtifactType: kind})
		}
	}
	return page, s.answer, s.err
}
