package layerstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// LeftoverKind is what a [Leftover] is.
type LeftoverKind string

// What is left over. It goes in this order.
const (
	LeftQuarantined LeftoverKind = "quarantine" // the file of a blob that rotted
	LeftPartial     LeftoverKind = "partial"    // of a transfer that nobody goes on with
	LeftIngest      LeftoverKind = "ingest"     // of an ingest that nobody has open
	LeftForms       LeftoverKind = "forms"      // all Derived of blobs that are neither here nor named by what is
)

// Leftover is what serves nobody now: it goes before any image.
type Leftover struct {
	Kind  LeftoverKind
	Name  string    // the name of the file in quarantine, the blob's digest, the ingest's name; "" for forms
	Bytes int64     // that it takes on the disk
	Since time.Time // when it was last written to; zero for forms
	Why   Reason    // why it goes
}

// errHeld: somebody has by now what was left over.
var errHeld = errors.New("in use")

// leftover knows how to remove itself, and then tells how many bytes that freed.
type leftover struct {
	Leftover
	drop func() (freed int64, err error)
}

// leftovers lists the files, in the order in which they go: those of one kind
// with the oldest first.
func (s *Store) leftovers() ([]leftover, error) {
	waiting, err := s.waitingFiles()
	if err != nil {
		return nil, err
	}
	var left []leftover
	for _, w := range waiting {
		if !w.held {
			left = append(left, s.leftoverOf(w))
		}
	}
	slices.SortFunc(left, func(a, b leftover) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Name, b.Name))
	})
	return append(s.quarantined(), left...), nil
}

func (s *Store) leftoverOf(w waitingFile) leftover {
	if w.digest != "" {
		return leftover{
			Leftover{Kind: LeftPartial, Name: w.digest.String(), Bytes: w.bytes, Since: w.changed},
			func() (int64, error) { return w.bytes, s.dropPartial(w.digest) },
		}
	}
	return leftover{
		Leftover{Kind: LeftIngest, Name: w.ingest, Bytes: w.bytes, Since: w.changed},
		func() (int64, error) { return w.bytes, s.dropIngest(w.ingest) },
	}
}

// tooOld reports whether a leftover goes though nobody wants its space.
func (l leftover) tooOld(now time.Time) bool {
	most := partialAge
	if l.Kind == LeftQuarantined {
		most = quarantineAge
	}
	return now.Sub(l.Since) > most
}

// ingestPause is how long nobody must have written to an ingest before it may
// go for the room it takes: between two pieces of an upload nobody has it open.
const ingestPause = 10 * time.Minute

// goesOn reports whether somebody may well be about to go on with a leftover.
func (l leftover) goesOn(now time.Time) bool {
	return l.Kind == LeftIngest && now.Sub(l.Since) < ingestPause
}

// clear plans what goes before any image: as much of what is left over as is
// wanted, and what is too old in any case.
func (p *plan) clear(found []leftover, forms Derived) {
	for _, l := range found {
		if l.goesOn(p.at) {
			continue
		}
		if l.Why = p.wanted(); l.tooOld(p.at) {
			l.Why = ForAge
		}
		p.leave(l)
	}
	idle := min(forms.Freeable(nil), p.lacking())
	p.leave(leftover{
		Leftover{Kind: LeftForms, Bytes: idle, Why: p.wanted()},
		func() (int64, error) { return forms.Idle(idle), nil },
	})
}

// leave adds a leftover that goes to the plan.
func (p *plan) leave(l leftover) {
	if l.Why == "" || l.Bytes == 0 && l.Why != ForAge {
		return
	}
	p.left = append(p.left, l)
	p.bytes += l.Bytes
}

// clearOut removes the leftovers of a plan, and returns how many stayed because
// somebody has them now. What cannot be removed is no reason to keep the rest.
func (s *Store) clearOut(ctx context.Context, p *plan, c *Collection) (stayed int) {
	defer s.unheld.stale.Store(true)
	for _, l := range p.left {
		if ctx.Err() != nil || s.ctx.Err() != nil {
			return stayed // carryOut tells
		}
		freed, err := l.drop()
		switch {
		case errors.Is(err, errHeld):
			stayed++
		case err != nil:
			s.log.Warn("leftover not removed", "kind", string(l.Kind), "name", l.Name, "error", err)
		default:
			l.Bytes = freed
			s.log.Info("leftover removed", "kind", string(l.Kind), "name", l.Name, "bytes", freed, "why", string(l.Why))
			c.clear(l.Leftover)
		}
	}
	return stayed
}

// tidy removes leftovers that are too old.
func (s *Store) tidy() {
	found, err := s.leftovers()
	if err != nil {
		s.log.Warn("leftovers not looked for", "error", err)
		return
	}
	p := &plan{at: s.now()}
	for _, l := range found {
		if l.tooOld(p.at) {
			l.Why = ForAge
			p.leave(l)
		}
	}
	s.clearOut(s.ctx, p, new(Collection))
}

func (c *Collection) clear(l Leftover) {
	c.Leftovers = append(c.Leftovers, l)
	c.Bytes += l.Bytes
}
