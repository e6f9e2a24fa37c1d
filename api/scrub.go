package api

import (
	"context"
	"net/http"

	"github.com/imagecache/imagecache/registry"
)

// PhaseForms is the phase of the progress of a scrub that reads unpacked layers:
// what it calls blobs then are these.
const PhaseForms = "scrub forms"

// FormScrubber proves what was made of stored blobs.
type FormScrubber interface {
	// ScrubForms proves unpacked layers again, all or those that were not proven
	// for long, and has those made again that are damaged. progress may be called
	// until it returns. nil, with a nil error: nothing is unpacked here.
	ScrubForms(ctx context.Context, all bool, progress func(registry.Progress)) (*ScrubbedForms, error)
}

// Scrubbed is what a scrub found, and what became of it.
type Scrubbed struct {
	registry.Scrubbed
	Forms *ScrubbedForms `json:"forms,omitempty"` // nil: nothing is unpacked here
}

// ScrubbedForms is what a scrub found among unpacked layers. Sizes are in bytes.
type ScrubbedForms struct {
	Forms     int          `json:"forms"`      // read
	Bytes     int64        `json:"bytes"`      // read
	Rotten    int          `json:"rotten"`     // damaged: found now, or earlier and not made again until now
	MadeAgain int          `json:"made_again"` // of those
	Unmade    []UnmadeForm `json:"unmade"`     // the others
}

// UnmadeForm is an unpacked layer that is damaged and could not be made again.
type UnmadeForm struct {
	DiffID string   `json:"diff_id"`
	Size   int64    `json:"size"`
	Reason string   `json:"reason"` // why not
	Users  []string `json:"users"`  // snapshots and root filesystems that it is a part of
}

// scrub proves stored blobs again and then what was made of them, what has an old
// proof or all of it.
func (s *Server) scrub(w *record, r *http.Request) error {
	var asked struct {
		All bool `json:"all"`
	}
	if err := readRequest(w, r, &asked); err != nil {
		return err
	}
	return stream(w, func(progress func(registry.Progress)) (done Scrubbed, err error) {
		if done.Scrubbed, err = s.registry.Scrub(r.Context(), asked.All, progress); err != nil || s.forms == nil {
			return done, err
		}
		done.Forms, err = s.forms.ScrubForms(r.Context(), asked.All, progress)
		return done, err
	}, func(done Scrubbed) any {
		return struct {
			Scrub Scrubbed `json:"scrub"`
		}{done}
	})
}
