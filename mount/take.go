package mount

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/imagecache/imagecache/mount/forms"
)

// take has a committed snapshot for the layer that makes the chain ID target, on
// top of parent, and reports whether there is one. What is in the way is counted,
// and logged once for each layer: the caller goes on in the ordinary way.
func (s *Snapshotter) take(ctx context.Context, target, parent string, info snapshots.Info) (taken bool) {
	err := s.tryTake(ctx, target, parent, info)
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		s.note(target, err)
	}
	return false
}

// tryTake is take without the counting. A fault of the program is an error too: it
// must not cost the pull.
func (s *Snapshotter) tryTake(ctx context.Context, target, parent string, info snapshots.Info) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = &missError{reason: missFault, err: fmt.Errorf("%v\n%s", fault, debug.Stack())}
		}
	}()
	chain, err := digest.Parse(target)
	if err != nil {
		return &missError{missUnknown, fmt.Errorf("%q is no chain ID: %w", target, err)}
	}
	name := formName(chain, parent)
	if s.standsFor(ctx, name, target, parent) {
		s.counts.reused.Add(1)
		return nil
	}
	form, err := s.getForm(ctx, chain, parent, name)
	if err == nil {
		err = s.commitForm(ctx, name, parent, info, form)
	}
	return err
}

// formName is the name of the snapshot of a chain ID on top of a parent. The same two
// give the same name, so that whoever asks again finds it. The bare chain ID
// would not do: two namespaces of containerd have parents of their own.
func formName(chain digest.Digest, parent string) string {
	sum := sha256.Sum256([]byte(parent))
	return "imagecache/" + hex.EncodeToString(sum[:8]) + "/" + chain.String()
}

// standsFor reports whether a snapshot is there already.
func (s *Snapshotter) standsFor(ctx context.Context, name, target, parent string) bool {
	r, err := s.row(ctx, name)
	return err == nil && r.Kind == snapshots.KindCommitted && r.Parent == parent && r.Labels[snapshots.LabelSnapshotRef] == target
}

// getForm gives the form of the layer, held for name, and waits for it within bounds.
func (s *Snapshotter) getForm(ctx context.Context, chain digest.Digest, parent, name string) (forms.Form, error) {
	layers, err := s.images.Chain(ctx, chain)
	if errors.Is(err, ErrUnknown) {
		return forms.Form{}, &missError{missUnknown, err}
	}
	if err != nil {
		return forms.Form{}, &missError{missImage, err}
	}
	if err := s.checkParent(ctx, layers, parent); err != nil {
		return forms.Form{}, &missError{missParent, err}
	}
	if s.prepareWait < 0 && !s.forms.Has(layers) {
		return forms.Form{}, &missError{missWaited, errWaited}
	}
	s.counts.waiting.Add(1)
	defer s.counts.waiting.Add(-1)
	ctx, cancel := s.waiting(ctx)
	defer cancel()
	form, err := s.forms.Get(ctx, layers, name)
	if errors.Is(err, errWaited) {
		return form, &missError{missWaited, err}
	}
	if err != nil {
		return form, &missError{missUnpack, err}
	}
	return form, nil
}

// checkParent proves that the layers below the last are those of parent.
func (s *Snapshotter) checkParent(ctx context.Context, layers []forms.Layer, parent string) error {
	if len(layers) == 0 {
		return errors.New("an image without layers")
	}
	below := make([]digest.Digest, len(layers)-1)
	for i := range below {
		below[i] = layers[i].DiffID
	}
	want, have := identity.ChainID(below), digest.Digest("")
	if parent != "" {
		r, err := s.row(ctx, parent)
		if err != nil {
			return err
		}
		have = chainOf(r)
	}
	if want != have {
		return fmt.Errorf("the layers below it are %q, the parent's are %q", want, have)
	}
	return nil
}

// commitForm writes the row of a form, made and committed in one.
func (s *Snapshotter) commitForm(ctx context.Context, name, parent string, info snapshots.Info, form forms.Form) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	err := s.forms.Hold(form.ID, name) // whoever failed at the same may have let it go
	if err == nil {
		err = s.update(ctx, func(ctx context.Context) error {
			_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, name+"+", parent)
			if err != nil {
				return err
			}
			own := map[string]string{labelForm: strconv.FormatUint(form.ID, 10)}
			usage := snapshots.Usage{Size: form.Bytes, Inodes: form.Inodes}
			_, err = storage.CommitActive(ctx, name+"+", name, usage, with(snapshots.Info{Labels: info.Labels}, own)...)
			return err
		})
	}
	if errors.Is(err, errdefs.ErrAlreadyExists) { // by one who asked for it at the same moment
		s.counts.reused.Add(1)
		return nil
	}
	if err != nil {
		s.releaseWithoutRow(ctx, name)
		return &missError{missRow, err}
	}
	s.counts.taken.Add(1)
	return nil
}

// lastElement is what follows the last slash.
func lastElement(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
