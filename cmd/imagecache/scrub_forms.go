package main

import (
	"cmp"
	"context"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/mount/forms"
	"github.com/imagecache/imagecache/registry"
)

var _ api.FormScrubber = (*people)(nil)

// ScrubForms proves the unpacked layers, where there may be some: nobody makes a
// room for them to look into.
func (p *people) ScrubForms(ctx context.Context, all bool, progress func(registry.Progress)) (*api.ScrubbedForms, error) {
	p.mu.Lock()
	r := p.rootfs
	p.mu.Unlock()
	if r == nil {
		return nil, nil
	}
	return r.scrubForms(ctx, all, progress)
}

func (r *rootfs) scrubForms(ctx context.Context, all bool, progress func(registry.Progress)) (*api.ScrubbedForms, error) {
	o := forms.ScrubOptions{Older: r.verifyAfter, Progress: func(p forms.ScrubProgress) {
		progress(registry.Progress{
			Phase: api.PhaseForms, Digest: p.DiffID.String(), BlobsDone: p.FormsDone, BlobsTotal: p.FormsTotal,
			BytesDone: p.BytesDone, BytesTotal: p.BytesTotal,
		})
	}}
	if all {
		o.Older = 0
	}
	found, err := r.forms.Scrub(ctx, o)
	told := &api.ScrubbedForms{Forms: found.Forms, Bytes: found.Bytes, Rotten: len(found.Rotten), Unmade: []api.UnmadeForm{}}
	for _, f := range found.Rotten {
		if f.Err == nil {
			told.MadeAgain++
			continue
		}
		told.Unmade = append(told.Unmade, api.UnmadeForm{
			DiffID: f.Form.DiffID.String(), Size: f.Form.Bytes, Reason: f.Err.Error(), Users: append([]string{}, f.Users...),
		})
	}
	return told, cmp.Or(err, context.Cause(ctx))
}

// scrubAlways has forms proven in the background, at the rate that is the store's.
func (r *rootfs) scrubAlways(s *Settings) {
	if s.ScrubRate > 0 && s.VerifyAfter > 0 {
		r.forms.ScrubAlways(forms.ScrubOptions{Older: s.VerifyAfter, Pace: r.store.ScrubPace})
	}
}
