package forms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/mount/erofs"
)

// Get gives the form of the image's last layer, base first, made if it is not
// here: one making for all who ask. user, if not "", holds the form from then on
// (see [Forms.Hold]). When ctx ends Get returns its cause, and the making goes on for
// Options.Linger. Errors besides: *[MakeError], [ErrClosed].
func (f *Forms) Get(ctx context.Context, image []Layer, user string) (Form, error) {
	if err := checkImage(image); err != nil {
		return Form{}, err
	}
	for round := range getRounds {
		a := f.ask(image, user, round == 0)
		if a.err != nil {
			return Form{}, a.err
		}
		if a.form != nil {
			if f.look(a.form, a.info.ID, a.times) {
				return a.info, nil
			}
			if a.held {
				f.unhold(a.info.ID, user)
			}
			continue
		}
		if err := a.wait(ctx, f); err != nil && !a.another(err, image) {
			return Form{}, err
		}
	}
	return Form{}, fmt.Errorf("form of layer %s vanishes as often as it is made", image[len(image)-1].DiffID)
}

// getRounds bound how often Get looks again. Two or three are ordinary: a making
// that learns that it needs the layers below, a form that just went.
const getRounds = 20

// answer is what there is to a question: a form, something to wait for, or an error.
type answer struct {
	form   *form
	held   bool // the user holds it, and did not before
	info   Form
	times  int
	making *making
	going  chan struct{}
	err    error
}

// ask finds the form of an image's last layer, or joins its making, or begins it.
func (f *Forms) ask(image []Layer, user string, first bool) answer {
	last := image[len(image)-1]
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return answer{err: ErrClosed}
	}
	k := f.key(image)
	if ch := f.going[k]; ch != nil {
		return answer{going: ch}
	}
	m := f.keys[k]
	if m != nil && !m.making && f.ready(m) {
		held := f.hold(m, user)
		f.use(m, last.Blob)
		if first {
			f.counts.hits++
		}
		return answer{form: m, held: held, info: m.info(), times: m.times}
	}
	if err := f.refused.find(refusal{k, last.Blob.Digest}, f.o.Now()); err != nil {
		return answer{err: err}
	}
	j := f.makings[k]
	if j == nil {
		j = f.begin(k, image, m)
	} else if first {
		f.counts.joined++
	}
	j.waiters++
	return answer{making: j}
}

// key is what the form of an image's last layer is found by, as far as is known.
// f.mu is held.
func (f *Forms) key(image []Layer) key {
	last := image[len(image)-1].DiffID
	if f.parented[last] {
		return chain(image)
	}
	return last
}

// look reports whether a form is where it should be.
func (f *Forms) look(m *form, id uint64, times int) bool {
	f.mu.Lock()
	r := m.row
	f.mu.Unlock()
	err := kindOf(r.Kind).present(f.at, r)
	if err == nil && r.Kind == KindEROFS && f.support().Way == erofs.None {
		err = errors.New("EROFS cannot be mounted here any more")
	}
	if err == nil {
		return true
	}
	if f.spoil(m, times, err) {
		f.log.Warn("form is gone from the disk and is made again when it is wanted", "form", id, "error", err)
	}
	return false
}

// wait waits for what the answer says.
func (a answer) wait(ctx context.Context, f *Forms) error {
	if a.going != nil {
		select {
		case <-a.going:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer f.leave(a.making)
	select {
	case <-a.making.done:
		return a.making.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// another reports whether a failed making is no answer to this image: it learned
// that the layer needs those below it, it was ended just before it was wanted
// again, or it was made of a blob of another image, which may lie about its diff ID.
func (a answer) another(err error, image []Layer) bool {
	var failed *MakeError
	switch {
	case errors.Is(err, errParented):
		return true
	case a.making == nil || !errors.As(err, &failed):
		return false
	}
	return failed.Reason == ReasonUnwanted || a.making.blob().Digest != image[len(image)-1].Blob.Digest
}

// Has reports whether the form of the image's last layer is here and can be had
// at once. No use is noted. Layer.Open is not needed.
func (f *Forms) Has(image []Layer) bool {
	if checkImage(image) != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.keys[f.key(image)]
	return m != nil && !m.making && f.ready(m)
}

// aheadMost is how many makings may wait that nobody waits for. What is asked for
// beyond is made when somebody wants it.
const aheadMost = 1000

// Ahead makes the forms of all layers of an image in the background, side by
// side, after those that somebody waits for. What fails is counted and logged.
func (f *Forms) Ahead(image []Layer) {
	if err := checkImage(image); err != nil {
		f.log.Debug("image not unpacked ahead", "error", err)
		return
	}
	for i := range image {
		f.ahead(image[:i+1])
	}
}

func (f *Forms) ahead(image []Layer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.key(image)
	m := f.keys[k]
	here := m != nil && !m.making && f.ready(m)
	blob := image[len(image)-1].Blob.Digest
	if f.closed || here || f.going[k] != nil || f.refused.find(refusal{k, blob}, f.o.Now()) != nil {
		return
	}
	j := f.makings[k]
	if j == nil {
		if len(f.makings) >= aheadMost {
			f.counts.skipped++
			return
		}
		j = f.begin(k, image, m)
	}
	j.ahead = true
}

// Progress is how far the making of an image's last form is.
type Progress struct {
	Read, Total int64 // compressed bytes
	Queued      bool  // waits for others to be made first
	// Moves grows as long as anything goes on that this making may wait for. Who
	// waits may give up when it stands still.
	Moves int64
}

// Progress tells how far a making is; false when none is under way.
func (f *Forms) Progress(image []Layer) (Progress, bool) {
	if checkImage(image) != nil {
		return Progress{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	j := f.makings[f.key(image)]
	if j == nil {
		return Progress{}, false
	}
	p := Progress{Read: j.read.Load(), Total: j.blob().Size, Queued: !j.working, Moves: j.moved.Load()}
	if p.Queued {
		p.Moves += f.moves.Load()
	}
	return p, true
}

// again makes a form again that is not ready, of what its row tells.
func (f *Forms) again(ctx context.Context, m *form) error {
	f.mu.Lock()
	if m.gone {
		f.mu.Unlock()
		return ErrNotFound
	}
	r := m.row
	f.mu.Unlock()
	if f.o.Blob == nil {
		return fmt.Errorf("form %d of layer %s must be made again, which needs its blob: pull the image", r.ID, r.DiffID)
	}
	var failed []error
	for _, blob := range slices.Backward(r.Blobs) {
		_, err := f.Get(ctx, f.imageOf(r, blob), "")
		if err == nil || ctx.Err() != nil {
			return err
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// imageOf is the image of a row, as far as it matters.
func (f *Forms) imageOf(r row, blob specs.Descriptor) []Layer {
	var image []Layer
	for _, b := range append(slices.Clone(r.Below), below{r.DiffID, blob}) {
		image = append(image, Layer{DiffID: b.DiffID, Blob: b.Blob, Open: func(ctx context.Context) (io.ReadCloser, error) {
			return f.o.Blob(ctx, b.DiffID, b.Blob)
		}})
	}
	return image
}
