package forms

import (
	"log/slog"
	"sync"
)

// trouble tells the log once what keeps forms from being made, and once that it
// is over, however many layers it concerns.
type trouble struct {
	log *slog.Logger

	mu   sync.Mutex // guards told
	told map[string]bool
}

// met tells of a making that failed. What is wrong with one layer is told for each:
// the refusals keep it from coming often.
func (t *trouble) met(e *MakeError) {
	if e.final() {
		t.log.Warn("layer cannot be unpacked: containerd is left to it", "layer", e.DiffID, "reason", e.Reason, "error", e.Err)
		return
	}
	t.mu.Lock()
	told := t.told[e.Reason]
	if t.told == nil {
		t.told = map[string]bool{}
	}
	t.told[e.Reason] = true
	t.mu.Unlock()
	if told {
		t.log.Debug("layer not unpacked", "layer", e.DiffID, "reason", e.Reason, "error", e.Err)
		return
	}
	t.log.Error("layers cannot be unpacked: containerd is left to it", "layer", e.DiffID, "reason", e.Reason, "error", e.Err)
}

// over notes that a form was made.
func (t *trouble) over() {
	t.mu.Lock()
	healed := len(t.told) > 0
	t.told = nil
	t.mu.Unlock()
	if healed {
		t.log.Info("layers are unpacked again")
	}
}
