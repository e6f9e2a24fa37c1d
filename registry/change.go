package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// Change is what became of an image between two digests, for the platforms of
// its pin.
type Change struct {
	From      string           `json:"from"`
	To        string           `json:"to"`
	Platforms []PlatformChange `json:"platforms,omitempty"`
	Reason    string           `json:"reason,omitempty"` // why it could not be found out
}

// PlatformChange is the change for one platform. Sizes are in bytes, of layers
// as they are transferred.
type PlatformChange struct {
	Platform string         `json:"platform"` // as the pin has it
	Added    []ChangedLayer `json:"added"`
	Dropped  []ChangedLayer `json:"dropped"`
	Kept     int            `json:"kept"` // layers that both have
	SizeFrom int64          `json:"size_from"`
	SizeTo   int64          `json:"size_to"`
	Config   []ChangedValue `json:"config"`
	Reason   string         `json:"reason,omitempty"` // why it could not be found out
}

// ChangedLayer is a layer that only one of the two has.
type ChangedLayer struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// ChangedValue is a value of the image config that differs. Of a list, such as
// the entrypoint, it is JSON. One that is absent on a side is nil there.
type ChangedValue struct {
	Field string  `json:"field"`          // env, entrypoint, cmd, user, workdir, labels, …
	Name  string  `json:"name,omitempty"` // of a variable, label, port or volume
	From  *string `json:"from,omitempty"`
	To    *string `json:"to,omitempty"`
}

// changeOf finds out what changed from a pin to another digest of upstream's.
// Of that, manifests and configs are fetched, which are small, and not kept.
func (r *Registry) changeOf(ctx context.Context, key string, row pinRow, to digest.Digest) *Change {
	if known := r.desired.known(key, row.Digest).drift; known.upstream == to && known.change != nil && known.change.Reason == "" {
		return known.change
	}
	change := &Change{From: row.Digest.String(), To: to.String()}
	ref, err := ParseReference(key)
	if err != nil {
		change.Reason = err.Error()
		return change
	}
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		change.Reason = err.Error()
		return change
	}
	v.spare = true
	from, fromErr := r.local(row.Digest)
	then, toErr := r.peek(ctx, v, to)
	if err := errors.Join(fromErr, toErr); err != nil {
		change.Reason = err.Error()
		return change
	}
	for _, p := range row.Platforms {
		change.Platforms = append(change.Platforms, r.platformChanges(ctx, v, p, from, then)...)
	}
	return change
}

// peek gives a manifest that is here, or upstream's, which is not kept.
func (r *Registry) peek(ctx context.Context, v view, d digest.Digest) (*Manifest, error) {
	if m, err := r.local(d); err == nil {
		return m, nil
	}
	got, err := v.upstream.manifest(v.sparing(ctx), v.repository.Path, Reference{Repository: v.repository, Digest: d})
	if err != nil {
		return nil, err
	}
	p, err := parseManifest(got.Descriptor.MediaType, got.Content)
	return &Manifest{Descriptor: got.Descriptor, Content: got.Content, parsed: p}, err
}

// side is one image of one platform.
type side struct {
	manifest *Manifest
	config   specs.Image
}

// platformChanges compares for a platform of a pin; for "all", each that either has.
func (r *Registry) platformChanges(ctx context.Context, v view, platform string, from, to *Manifest) []PlatformChange {
	names := []string{platform}
	if platform == PlatformAll && (isIndex(from.Descriptor.MediaType) || isIndex(to.Descriptor.MediaType)) {
		names = slices.Compact(slices.Sorted(slices.Values(append(platformsOf(from), platformsOf(to)...))))
	}
	var changes []PlatformChange
	for _, name := range names {
		before, beforeErr := r.side(ctx, v, from, name)
		after, afterErr := r.side(ctx, v, to, name)
		change := PlatformChange{Platform: name, Added: []ChangedLayer{}, Dropped: []ChangedLayer{}, Config: []ChangedValue{}}
		if err := errors.Join(beforeErr, afterErr); err != nil {
			change.Reason = err.Error()
		} else {
			change.layers(before.manifest, after.manifest)
			change.Config = append(change.Config, changedConfig(before.config, after.config)...)
		}
		changes = append(changes, change)
	}
	return changes
}

// platformsOf are the platforms of an index, attestations left out.
func platformsOf(m *Manifest) (names []string) {
	for _, c := range m.parsed.manifests {
		if c.Platform != nil && c.Platform.OS != "unknown" {
			names = append(names, platforms.Format(*c.Platform))
		}
	}
	return names
}

// side finds the image of a platform and its config.
func (r *Registry) side(ctx context.Context, v view, top *Manifest, platform string) (s side, err error) {
	s.manifest = top
	if isIndex(top.Descriptor.MediaType) {
		chosen, err := top.choose([]string{platform})
		if err != nil {
			return s, err
		}
		if s.manifest, err = r.peek(ctx, v, chosen[0].Digest); err != nil {
			return s, err
		}
	}
	if s.manifest.parsed.config == nil {
		return s, nil
	}
	content, err := r.peekBlob(ctx, v, *s.manifest.parsed.config)
	if err != nil {
		return s, fmt.Errorf("config %s: %w", s.manifest.parsed.config.Digest, err)
	}
	if err := json.Unmarshal(content, &s.config); err != nil {
		return s, fmt.Errorf("config %s is not that of an image: %w", s.manifest.parsed.config.Digest, err)
	}
	return s, nil
}

// peekBlob reads a small blob that is here, or upstream's, which is not kept.
func (r *Registry) peekBlob(ctx context.Context, v view, desc specs.Descriptor) ([]byte, error) {
	if content, err := r.store.ReadAll(desc.Digest, maxManifest); err == nil {
		return content, nil
	}
	body, err := v.source(desc.Digest).Open(ctx, 0, -1)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(content); got != desc.Digest {
		return nil, &layerstore.DigestError{Want: desc.Digest, Got: got}
	}
	return content, nil
}

// layers fills in what became of the layers.
func (c *PlatformChange) layers(from, to *Manifest) {
	had := map[digest.Digest]bool{}
	for _, l := range from.parsed.layers {
		had[l.Digest] = true
		c.SizeFrom += l.Size
	}
	has := map[digest.Digest]bool{}
	for _, l := range to.parsed.layers {
		has[l.Digest] = true
		c.SizeTo += l.Size
		if !had[l.Digest] {
			c.Added = append(c.Added, ChangedLayer{l.Digest.String(), l.Size})
		}
	}
	for _, l := range from.parsed.layers {
		if has[l.Digest] {
			c.Kept++
			continue
		}
		c.Dropped = append(c.Dropped, ChangedLayer{l.Digest.String(), l.Size})
	}
}

// setting names one value of an image config.
type setting struct{ field, name string }

// changedConfig compares what a container is started with.
func changedConfig(from, to specs.Image) (changed []ChangedValue) {
	before, after := settingsOf(from.Config), settingsOf(to.Config)
	all := maps.Clone(before)
	maps.Copy(all, after)
	for _, s := range slices.SortedFunc(maps.Keys(all), func(a, b setting) int {
		return cmp.Or(strings.Compare(a.field, b.field), strings.Compare(a.name, b.name))
	}) {
		value := ChangedValue{Field: s.field, Name: s.name}
		if v, ok := before[s]; ok {
			value.From = &v
		}
		if v, ok := after[s]; ok {
			value.To = &v
		}
		if value.From == nil || value.To == nil || *value.From != *value.To {
			changed = append(changed, value)
		}
	}
	return changed
}

// settingsOf takes an image config apart. What is not set is not in it.
func settingsOf(c specs.ImageConfig) map[setting]string {
	all := map[setting]string{}
	for _, variable := range c.Env {
		name, value, _ := strings.Cut(variable, "=")
		all[setting{"env", name}] = value
	}
	for name, value := range c.Labels {
		all[setting{"labels", name}] = value
	}
	for name := range c.ExposedPorts {
		all[setting{"ports", name}] = ""
	}
	for name := range c.Volumes {
		all[setting{"volumes", name}] = ""
	}
	for field, list := range map[string][]string{"entrypoint": c.Entrypoint, "cmd": c.Cmd} {
		if list != nil {
			text, _ := json.Marshal(list) // strings only: cannot fail
			all[setting{field, ""}] = string(text)
		}
	}
	for field, value := range map[string]string{"user": c.User, "workdir": c.WorkingDir, "stop_signal": c.StopSignal} {
		if value != "" {
			all[setting{field, ""}] = value
		}
	}
	return all
}
