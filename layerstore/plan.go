package layerstore

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// unit is what goes or stays as a whole: a top with all it refers to.
type unit struct {
	top   int
	blobs []int // everything that it refers to, itself included, whether here or not
	bytes int64 // of them that are here
	used  time.Time
	stays Reason // why it must not go; "" when it may

	why  Reason          // why it goes
	free []digest.Digest // what goes with it, itself included: only it had needed that
	away []digest.Digest // what only it had named, and that is not here
	size int64           // of those, in bytes
	made int64           // bytes of forms that go with them
}

// want is how many bytes are to go, for each reason.
type want struct{ size, free, need int64 }

// plan says what is to go.
type plan struct {
	*graph
	at     time.Time
	limits limits
	want   want
	must   int64 // bytes that have to go to come within the limits
	left   []leftover
	units  []*unit
	bytes  int64 // that go
	kept   []Stay
}

// plan makes a plan from what is known now. It changes nothing and disturbs nobody.
func (s *Store) plan(need int64) (*plan, error) {
	p := &plan{at: s.now(), limits: s.limits}
	// Times of use are copied before the index is read: what is written to it
	// meanwhile is in the copy, or in the index.
	used := s.usage.all()
	reading, leased := s.inUse.holders()
	flying := s.inFlight()
	var roots []digest.Digest
	err := s.index.db.View(func(tx *bolt.Tx) (err error) {
		roots = rootsOf(tx)
		p.graph, err = readGraph(tx)
		return err
	})
	if err != nil {
		return nil, storageError("read index", err)
	}
	for d, at := range used {
		if id, ok := p.ids[d]; ok && p.sealed[id] && at.After(p.graph.used[id]) {
			p.graph.used[id] = at
		}
	}
	left, err := s.leftovers()
	if err != nil {
		return nil, err
	}
	forms := s.forms()
	if err := p.measure(s, need, bytesOf(left)+forms.Bytes()); err != nil {
		return nil, err
	}
	p.clear(left, forms)
	busy := p.busy(reading, flying)
	held := p.held(roots, leased, flying)
	units := p.attribute(busy)
	p.decide(units, busy, held)
	p.choose(units, held, forms)
	return p, nil
}

func rootsOf(tx *bolt.Tx) (roots []digest.Digest) {
	c := tx.Bucket(bucketRoots).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		roots = append(roots, digest.Digest(v))
	}
	return roots
}

// measure finds out how much is to go. Beside the blobs, others take bytes.
func (p *plan) measure(s *Store, need, others int64) error {
	total := others
	for _, n := range p.size {
		total += n
	}
	p.want.need = max(need, 0)
	p.must = p.want.need
	if most := p.limits.size; most > 0 && total > most {
		p.want.size = total - int64(lowMark*float64(most))
		p.must = max(p.must, total-most)
	}
	if p.limits.free == (Reserve{}) {
		return nil
	}
	capacity, free, err := s.disk()
	if err != nil {
		return err
	}
	if least := p.limits.free.of(capacity); int64(free) < least {
		p.want.free = int64(freeMark*float64(least)) - int64(free)
		p.must = max(p.must, least-int64(free))
	}
	return nil
}

// busy tells which digests are read or on their way: they are used now.
func (p *plan) busy(reading, flying []digest.Digest) map[int]Reason {
	busy := map[int]Reason{}
	for _, d := range reading {
		if id, ok := p.ids[d]; ok {
			busy[id] = ByReader
		}
	}
	for _, d := range flying {
		if id, ok := p.ids[d]; ok {
			busy[id] = ByTransfer
		}
	}
	for id := range busy {
		p.graph.used[id] = p.at
	}
	return busy
}

// held is everything that is kept, and by what.
func (p *plan) held(roots, leased, flying []digest.Digest) map[int]Reason {
	held := map[int]Reason{}
	for _, h := range []struct {
		by   Reason
		from []digest.Digest
	}{{ByTransfer, flying}, {ByLease, leased}, {ByRoot, roots}} {
		for id := range p.closure(h.from) {
			held[id] = h.by
		}
	}
	return held
}

// attribute makes the units and finds out when each was used: see Collect. What
// is busy keeps one unit from going, that which its use counts for.
func (p *plan) attribute(busy map[int]Reason) []*unit {
	var units []*unit
	holders := make([]int, len(p.digests))
	for _, top := range p.tops() {
		u := &unit{top: top}
		p.walk([]int{top}, func(id int) bool {
			u.blobs = append(u.blobs, id)
			u.bytes += p.size[id]
			holders[id]++
			return true
		})
		units = append(units, u)
	}
	for _, u := range units {
		for _, id := range u.blobs {
			if holders[id] == 1 {
				p.use(u, id, busy)
			}
		}
	}
	slices.SortFunc(units, p.older)
	counted := make([]bool, len(p.digests))
	for _, u := range slices.Backward(units) {
		for _, id := range u.blobs {
			if holders[id] > 1 && !counted[id] {
				counted[id] = true
				p.use(u, id, busy)
			}
		}
	}
	slices.SortFunc(units, p.older)
	return units
}

// use counts the use of a blob for a unit.
func (p *plan) use(u *unit, id int, busy map[int]Reason) {
	if at := p.graph.used[id]; at.After(u.used) {
		u.used = at
	}
	if why, ok := busy[id]; ok {
		u.stays = why
	}
}

// older orders units by use, and those that were used at the same time by
// digest, so that a plan is the same each time it is made.
func (p *plan) older(a, b *unit) int {
	return cmp.Or(a.used.Compare(b.used), cmp.Compare(p.digests[a.top], p.digests[b.top]))
}

// decide finds out what must not go.
func (p *plan) decide(units []*unit, busy, held map[int]Reason) {
	for _, u := range units {
		if by, ok := held[u.top]; ok {
			u.stays = by
		} else if u.stays == "" && p.at.Sub(u.used) < justUsed {
			u.stays = ByUse
		}
	}
}

// choose takes the least recently used units until enough is free.
func (p *plan) choose(units []*unit, held map[int]Reason, forms Derived) {
	going, idle := map[digest.Digest]bool{}, forms.Freeable(nil)
	holders := make([]int, len(p.digests))
	for _, u := range units {
		for _, id := range u.blobs {
			holders[id]++
		}
	}
	for _, u := range units {
		if u.stays != "" {
			continue
		}
		if u.why = p.reason(u); u.why == "" {
			continue
		}
		for _, id := range u.blobs {
			holders[id]--
			if _, keep := held[id]; holders[id] > 0 || keep {
				continue
			}
			going[p.digests[id]] = true
			if !p.sealed[id] {
				u.away = append(u.away, p.digests[id])
				continue
			}
			u.free = append(u.free, p.digests[id])
			u.size += p.size[id]
		}
		u.made = forms.Freeable(going) - idle
		idle += u.made
		p.units = append(p.units, u)
		p.bytes += u.size + u.made
	}
	if p.short() > 0 {
		p.explain(units)
	}
}

// reason is why a unit is to go, "" when it need not.
func (p *plan) reason(u *unit) Reason {
	if p.limits.age > 0 && p.at.Sub(u.used) > p.limits.age {
		return ForAge
	}
	return p.wanted()
}

// wanted is why more bytes are to go, "" when enough do.
func (p *plan) wanted() Reason {
	switch {
	case p.bytes < p.want.size:
		return ForSize
	case p.bytes < p.want.free:
		return ForFree
	case p.bytes < p.want.need:
		return ForNeed
	}
	return ""
}

// lacking is how many bytes more are to go.
func (p *plan) lacking() int64 {
	return max(p.want.size, p.want.free, p.want.need, p.bytes) - p.bytes
}

// short is how many bytes are wanting to come within the limits.
func (p *plan) short() int64 { return max(p.must-p.bytes, 0) }

// explain lists what stays.
func (p *plan) explain(units []*unit) {
	for _, u := range units {
		if u.stays != "" {
			p.kept = append(p.kept, Stay{Top: p.digests[u.top], Bytes: u.bytes, Used: u.used, Why: u.stays})
		}
	}
}

// collection tells of the plan as if it had been carried out.
func (p *plan) collection() Collection {
	c := Collection{Kept: p.kept, Short: p.short()}
	for _, l := range p.left {
		c.clear(l.Leftover)
	}
	for _, u := range p.units {
		c.add(p.eviction(u))
	}
	return c
}

func (p *plan) eviction(u *unit) Eviction {
	return Eviction{Top: p.digests[u.top], Blobs: len(u.free), Bytes: u.size + u.made, Forms: u.made, Used: u.used, Why: u.why}
}

func (c *Collection) add(e Eviction) {
	c.Gone = append(c.Gone, e)
	c.Blobs += e.Blobs
	c.Bytes += e.Bytes
}
