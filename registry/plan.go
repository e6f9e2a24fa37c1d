package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// PlatformAll chooses every child of an index.
const PlatformAll = "all"

// CheckPlatforms reads platforms as users give them ("linux/arm64/v8", "all")
// and returns them in the one form we keep; for none, the machine's own.
func CheckPlatforms(given []string) ([]string, error) {
	if len(given) == 0 {
		return []string{platforms.Format(platforms.DefaultSpec())}, nil
	}
	if slices.Contains(given, PlatformAll) {
		return []string{PlatformAll}, nil
	}
	var checked []string
	for _, g := range given {
		p, err := platforms.Parse(g)
		if err != nil {
			return nil, &Error{Code: CodeNameInvalid, Reference: quoted(g), Message: `not a platform, which is like "linux/amd64"`, Err: err}
		}
		checked = append(checked, platforms.Format(p))
	}
	slices.Sort(checked)
	return slices.Compact(checked), nil
}

// choose picks the children that given platforms need of an index: the best
// match for each, as containerd does, or all. An image has no children to choose
// among, and neither has an index of blobs alone.
func (m *Manifest) choose(wanted []string) ([]specs.Descriptor, error) {
	children := m.parsed.images()
	if len(children) == 0 && len(m.parsed.contents()) > 0 || !isIndex(m.Descriptor.MediaType) {
		return nil, nil
	}
	if slices.Contains(wanted, PlatformAll) {
		return children, nil
	}
	var chosen []specs.Descriptor
	for _, w := range wanted {
		p, err := platforms.Parse(w)
		if err != nil {
			return nil, err
		}
		best := bestMatch(children, platforms.Only(p))
		if best == nil {
			return nil, &Error{Code: CodeManifestUnknown, Message: fmt.Sprintf("there is no %s in the index, which has %s", w, offered(children))}
		}
		chosen = append(chosen, *best)
	}
	return chosen, nil
}

func bestMatch(children []specs.Descriptor, m platforms.MatchComparer) (best *specs.Descriptor) {
	for i, c := range children {
		if c.Platform == nil || !m.Match(*c.Platform) {
			continue
		}
		if best == nil || m.Less(*c.Platform, *best.Platform) {
			best = &children[i]
		}
	}
	return best
}

func offered(children []specs.Descriptor) string {
	var names []string
	for _, c := range children {
		if c.Platform != nil && c.Platform.OS != "unknown" { // unknown/unknown is an attestation
			names = append(names, platforms.Format(*c.Platform))
		}
	}
	if len(names) == 0 {
		return "no platforms at all"
	}
	return strings.Join(names, ", ")
}

// depthMost bounds indexes of indexes.
const depthMost = 4

// plan is what a manifest needs for some platforms: manifests, itself
// included, and blobs, each digest once. unread are manifests that could not
// be read, whose needs are unknown.
type plan struct {
	manifests []*Manifest
	blobs     []specs.Descriptor
	unread    []specs.Descriptor
	seen      map[digest.Digest]bool
}

// reader gives a manifest by its descriptor.
type reader func(specs.Descriptor) (*Manifest, error)

// planFor walks from top. With a reader that fails with layerstore.ErrNotFound
// the plan is as far as the manifests are here.
func planFor(top *Manifest, wanted []string, read reader) (*plan, error) {
	p := &plan{seen: map[digest.Digest]bool{}}
	return p, p.walk(top, wanted, read, 0)
}

func (p *plan) walk(m *Manifest, wanted []string, read reader, depth int) error {
	if p.seen[m.Descriptor.Digest] {
		return nil
	}
	if depth > depthMost {
		return invalid("the index is nested more than %d deep", depthMost)
	}
	p.seen[m.Descriptor.Digest] = true
	p.manifests = append(p.manifests, m)
	for _, b := range m.parsed.blobs() {
		if !p.seen[b.Digest] {
			p.seen[b.Digest] = true
			p.blobs = append(p.blobs, b)
		}
	}
	children, err := m.choose(wanted)
	if err != nil {
		return err
	}
	for _, c := range children {
		child, err := read(c)
		if errors.Is(err, layerstore.ErrNotFound) {
			p.unread = append(p.unread, c)
			continue
		}
		if err != nil {
			return fmt.Errorf("manifest %s of the index: %w", c.Digest, err)
		}
		if err := p.walk(child, wanted, read, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// localPlan is the plan as far as the manifests are here.
func (r *Registry) localPlan(top *Manifest, wanted []string) (*plan, error) {
	return planFor(top, wanted, func(d specs.Descriptor) (*Manifest, error) { return r.local(d.Digest) })
}

// holding counts what of a plan is here.
type holding struct {
	have, want int
	dropped    int // of have, layers that are here unpacked only: see holdsUnpacked
	bytes      int64
}

func (h holding) complete() bool { return h.have == h.want }

// holds counts. Only what is sealed counts as here.
func (r *Registry) holds(p *plan) (h holding) {
	h.want = len(p.manifests) + len(p.blobs) + len(p.unread)
	count := func(d digest.Digest) {
		if info, err := r.store.Stat(d); err == nil {
			h.have++
			h.bytes += info.Size
		}
	}
	for _, m := range p.manifests {
		count(m.Descriptor.Digest)
	}
	for _, b := range p.blobs {
		count(b.Digest)
	}
	return h
}

// wantedOf are the platforms that pull and pin take for an upstream.
func wantedOf(u *upstream, given []string) ([]string, error) {
	if len(given) == 0 {
		given = u.options.Platforms
	}
	return CheckPlatforms(given)
}

// remotePlan is the whole plan: manifests that are not here are fetched. All
// of them are durable when it returns.
func (r *Registry) remotePlan(ctx context.Context, v view, top *Manifest, wanted []string) (*plan, error) {
	p, err := planFor(top, wanted, func(d specs.Descriptor) (*Manifest, error) {
		m, _, err := r.byDigest(ctx, v, d.Digest)
		return m, err
	})
	if err != nil {
		return nil, err
	}
	for _, m := range p.manifests {
		if err := r.store.Put(ctx, m.Descriptor, m.Content, m.parsed.digests()...); err != nil {
			return nil, err
		}
	}
	return p, nil
}
