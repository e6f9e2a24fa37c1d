package registry

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// tag is a row with what is known of it in this process. Registry.mu guards it.
type tag struct {
	row     tagRow
	checked time.Time     // upstream last confirmed it; not written for every confirmation
	failed  time.Time     // upstream was last asked in vain
	why     string        // what came of that
	whose   string        // the question was: nobody's being refused is no answer for others
	count   *atomic.Int64 // requests since checked
	asking  *atomic.Bool  // upstream is being asked ahead of the end
}

func newTag(row tagRow) *tag {
	return &tag{row: row, checked: row.Checked, count: new(atomic.Int64), asking: new(atomic.Bool)}
}

// tagged gives what is known of a tag.
func (r *Registry) tagged(key string) (tag, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t, ok := r.tags[key]; ok {
		return *t, true
	}
	return tag{}, false
}

// Manifest gives the manifest that a reference means now. Errors are *[Error],
// or the cause of ctx.
func (r *Registry) Manifest(ctx context.Context, ref Reference) (*Manifest, Answer, error) {
	m, a, err := r.manifest(ctx, ref)
	if err != nil {
		return nil, a, r.about(ref.String(), err)
	}
	a.Upstream = ref.Registry
	r.counts.note(a)
	r.store.Touch(m.Descriptor.Digest)
	return m, a, nil
}

func (r *Registry) manifest(ctx context.Context, ref Reference) (*Manifest, Answer, error) {
	return look(ctx, r, wish{ref, subjectManifest}, func(v view) (*Manifest, Answer, error) {
		m, a, err := r.manifestIn(ctx, v, ref)
		if err == nil && !onlyLooks(ctx) {
			r.pass(v, m)
		}
		return m, a, err
	})
}

func (r *Registry) manifestIn(ctx context.Context, v view, ref Reference) (*Manifest, Answer, error) {
	if ref.Digest != "" {
		return r.byDigest(ctx, v, ref.Digest)
	}
	if pin, ok := r.pinned(ref); ok {
		m, a, err := r.byDigest(ctx, v, pin.Digest)
		a.Detail = DetailPinned
		return m, a, err
	}
	return r.byTag(ctx, v, ref)
}

// byTag answers a tag that is not pinned.
func (r *Registry) byTag(ctx context.Context, v view, ref Reference) (*Manifest, Answer, error) {
	if v.upstream.home != nil {
		return r.atHome(ctx, v, ref)
	}
	t, ok := r.tagged(ref.String())
	if !ok || !v.may(t.row.Public) {
		return r.firstTime(ctx, v, ref)
	}
	age := r.now().Sub(t.checked)
	switch v.freshness(ref, t, age) {
	case fresh:
		r.ahead(v, ref, t, age)
		return r.answerRow(ctx, v, t, OutcomeHit, "")
	case expired:
		return r.firstTime(ctx, v, ref)
	}
	now := r.now()
	byMirror := t.row.Mirror != "" && v.believesMirrors() // who will say what it means now, if upstream does not
	if until, why, resting := v.upstream.resting(); resting && !byMirror {
		return r.answerRow(ctx, v, t, OutcomeStale, fmt.Sprintf("%s; asked again in %s", why.Message, until.Sub(now).Round(time.Second)))
	}
	if t.whose == v.key("tag", ref) && now.Sub(t.failed) < failedRest && !now.Before(t.failed) {
		return r.answerRow(ctx, v, t, OutcomeStale, t.why)
	}
	return r.revalidate(ctx, v, ref, t)
}

// revalidate asks upstream about a tag that is old, for a bounded time.
func (r *Registry) revalidate(ctx context.Context, v view, ref Reference, old tag) (*Manifest, Answer, error) {
	wait, cancel := context.WithTimeoutCause(ctx, r.staleWait, errSlow)
	defer cancel()
	now, joined, err := ask(wait, r, v.key("tag", ref), func(ctx context.Context) (tag, error) {
		if t, ok := r.tagged(ref.String()); ok && r.freshness(v, ref, t) == fresh {
			return t, nil // another's question was answered while this one was on its way here
		}
		return r.refresh(ctx, v, ref, old)
	})
	switch {
	case ctx.Err() != nil:
		return nil, Answer{}, context.Cause(ctx)
	case errors.Is(err, errSlow):
		v.upstream.slow(r.staleWait)
		return r.answerRow(ctx, v, old, OutcomeStale, errSlow.Error())
	case err != nil:
		return r.answerRow(ctx, v, old, OutcomeStale, err.Error())
	}
	outcome := OutcomeHit
	if now.row.Digest != old.row.Digest {
		outcome = missOr(joined)
	}
	return r.answerRow(ctx, v, now, outcome, "")
}

var errSlow = errors.New("upstream is slow")

func missOr(joined bool) string {
	if joined {
		return OutcomeJoined
	}
	return OutcomeMiss
}

// refresh brings a tag up to date: by HEAD, and where it moved by GET of the
// new manifest, which is here before the row moves.
func (r *Registry) refresh(ctx context.Context, v view, ref Reference, old tag) (tag, error) {
	head, err := v.tagHead(ctx, ref, old.row.Mirror != "")
	if err == nil && head.Digest == old.row.Digest && head.Mirror == old.row.Mirror {
		return r.confirm(ref, old), nil
	}
	if err != nil && !errors.Is(err, errNoHead) {
		r.noteFailure(v, ref, err)
		return tag{}, err
	}
	sparing := v
	sparing.spare = true // there is something to answer with
	_, moved, err := r.fetchMoved(ctx, sparing, ref, head, err)
	if err != nil {
		r.noteFailure(v, ref, err)
	}
	return moved, err
}

// confirm notes that upstream still says the same.
func (r *Registry) confirm(ref Reference, old tag) tag {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tags[ref.String()]
	if !ok || t.row.Digest != old.row.Digest {
		return old
	}
	t.checked, t.failed = r.now(), time.Time{}
	t.count.Store(0)
	if t.checked.Sub(t.row.Checked) >= confirmEvery {
		t.row.Checked = t.checked
		row := t.row
		r.background(func() { r.writeRow(ref, row) })
	}
	return *t
}

// writeRow writes a row whose manifest is durable, unless the tag has moved
// on. One that cannot be written costs a question after the next start.
func (r *Registry) writeRow(ref Reference, row tagRow) {
	if now, ok := r.tagged(ref.String()); !ok || now.row != row {
		return
	}
	err := r.state.db.Batch(func(tx *bolt.Tx) error { return put(tx, bucketTags, ref.String(), row) })
	if err != nil {
		r.log.Warn("confirmation of a tag not written", "reference", ref.String(), "error", err)
	}
}

// noteFailure notes that upstream was asked about a tag in vain.
func (r *Registry) noteFailure(v view, ref Reference, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.tags[ref.String()]; ok {
		t.failed, t.why, t.whose = r.now(), err.Error(), v.key("tag", ref)
	}
	r.log.Warn("tag not revalidated", "reference", ref.String(), "error", err)
}

// firstTime answers a tag that nobody asked for before.
func (r *Registry) firstTime(ctx context.Context, v view, ref Reference) (*Manifest, Answer, error) {
	key := v.key("tag", ref)
	if err := r.unknown.check(key); err != nil {
		return nil, Answer{}, err
	}
	if err := v.limited(); err != nil {
		return nil, Answer{}, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, answerWait, errNoAnswer)
	defer cancel()
	m, joined, err := ask(wait, r, v.key("first", ref), func(ctx context.Context) (*Manifest, error) {
		m, _, err := r.fetchTag(ctx, v, ref)
		return m, err
	})
	if err != nil {
		r.unknown.note(key, err)
		return nil, Answer{}, err
	}
	return m, Answer{Outcome: missOr(joined), Stored: true}, nil
}

var errNoAnswer = &Error{Code: CodeTimeout, Message: "upstream has not answered yet", RetryAfter: time.Second}

// fetchTag gets a tag's manifest from upstream, keeps it, and moves the row. Where
// there are mirrors, upstream is only asked what the tag means.
func (r *Registry) fetchTag(ctx context.Context, v view, ref Reference) (*Manifest, tag, error) {
	if len(v.upstream.mirrors) == 0 {
		return r.fetchMoved(ctx, v, ref, tagHead{}, errNoHead)
	}
	head, err := v.tagHead(ctx, ref, true)
	if err != nil && !errors.Is(err, errNoHead) {
		return nil, tag{}, err
	}
	return r.fetchMoved(ctx, v, ref, head, err)
}

// fetchMoved is fetchTag when head, or noHead, is what a HEAD told. Upstream is
// asked by tag, which is the truth where its HEAD is wrong; mirrors are asked
// by digest.
func (r *Registry) fetchMoved(ctx context.Context, v view, ref Reference, head tagHead, noHead error) (*Manifest, tag, error) {
	ctx = v.sparing(ctx)
	byTag := Reference{Repository: ref.Repository, Tag: ref.Tag}
	if noHead == nil && len(v.upstream.mirrors) > 0 {
		m, how, err := r.manifestOf(ctx, v, ref.Repository, head)
		if err == nil {
			return m, r.moveTo(ref, m, head.row(), how), nil
		}
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeManifestUnknown || head.Mirror != "" {
			return nil, tag{}, err
		}
	}
	got, err := v.upstream.manifest(ctx, ref.Path, byTag)
	if err != nil {
		return nil, tag{}, err
	}
	m := r.take(ref.Repository, got)
	return m, r.moveTo(ref, m, tagRow{Public: got.Anonymous, MaxAge: got.MaxAge}, howHeld(got.Anonymous)), nil
}

// manifestOf gets the manifest that a tag means, which may be here.
func (r *Registry) manifestOf(ctx context.Context, v view, in Repository, head tagHead) (*Manifest, string, error) {
	how := howHeld(head.Anonymous)
	if head.Mirror != "" {
		how = holdMirror
	}
	if m, err := r.local(head.Digest); err == nil {
		return m, how, nil
	}
	got, err := v.upstream.manifest(ctx, in.Path, Reference{Repository: in, Digest: head.Digest})
	if err != nil {
		return nil, "", err
	}
	return r.take(in, got), how, nil
}

// row is what a HEAD tells of a tag.
func (h tagHead) row() tagRow { return tagRow{Public: h.Anonymous, MaxAge: h.MaxAge, Mirror: h.Mirror} }

// moveTo makes a tag mean a manifest, and keeps both.
func (r *Registry) moveTo(ref Reference, m *Manifest, row tagRow, how string) tag {
	row.Digest, row.MediaType, row.Size = m.Descriptor.Digest, m.Descriptor.MediaType, m.Descriptor.Size
	row.Checked = r.now()
	r.show(ref.Repository, row.Digest, how)
	t := r.move(ref, row)
	r.background(func() { r.keepTag(m, ref, t.row, how) })
	return t
}

// tagHead asks what a tag means: upstream, and where it cannot be asked and
// mirrorsToo is set, its mirrors.
func (v view) tagHead(ctx context.Context, ref Reference, mirrorsToo bool) (tagHead, error) {
	if !mirrorsToo || !v.believesMirrors() {
		return v.upstream.tagHead(ctx, ref.Path, ref.Tag)
	}
	_, why, resting := v.upstream.resting()
	err := error(why)
	if !resting {
		short, cancel := context.WithTimeout(ctx, v.upstream.env.patience)
		defer cancel()
		got, failed := v.upstream.tagHead(short, ref.Path, ref.Tag)
		if failed == nil || !passing(failed) {
			return got, failed
		}
		err = failed
	}
	if got, ok := v.upstream.headFromMirrors(ctx, ref.Path, ref.Tag); ok {
		return got, nil
	}
	return tagHead{}, err
}

// move makes a tag mean what a row says, in memory.
func (r *Registry) move(ref Reference, row tagRow) tag {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.tags[ref.String()]; ok && before.row.Digest == row.Digest {
		// What was given to anybody once is not made private by asking with a credential.
		row.Public = row.Public || before.row.Public
	}
	t := newTag(row)
	r.tags[ref.String()] = t
	return *t
}

// keepTag makes a manifest durable, and then the row that names it, unless
// the tag has moved on meanwhile. Where the disk refuses, the row in memory
// answers, and it is tried again.
func (r *Registry) keepTag(m *Manifest, ref Reference, row tagRow, how string) {
	r.keepOrLater(ref.String(), m.Descriptor.Size, func() error {
		err := r.keep(r.ctx, m, ref.Repository, how)
		defer r.turns.take(ref.String())()
		if now, ok := r.tagged(ref.String()); err == nil && ok && now.row == row {
			err = r.state.db.Batch(func(tx *bolt.Tx) error { return put(tx, bucketTags, ref.String(), row) })
		}
		return err
	})
}

// answerRow answers with the manifest that a row names.
func (r *Registry) answerRow(ctx context.Context, v view, t tag, outcome, detail string) (*Manifest, Answer, error) {
	m, a, err := r.byDigest(ctx, v, t.row.Digest)
	if err != nil {
		return nil, a, err
	}
	if a.Outcome != OutcomeHit && outcome == OutcomeHit {
		outcome = a.Outcome // the row was here, its manifest was not
	}
	return m, Answer{Outcome: outcome, Detail: detail, Stored: outcome == OutcomeMiss || outcome == OutcomeJoined, Age: max(r.now().Sub(t.checked), 0)}, nil
}

// untag forgets rows; the digests they named stay.
func (r *Registry) untag(keys []string) error {
	defer r.turns.take(keys...)()
	err := r.state.db.Batch(func(tx *bolt.Tx) error {
		for _, key := range keys {
			if err := tx.Bucket(bucketTags).Delete([]byte(key)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		delete(r.tags, key)
	}
	return nil
}

// about gives an error its reference, once.
func (r *Registry) about(reference string, err error) error {
	var e *Error
	if errors.As(err, &e) && e.Reference == "" {
		return e.about(reference)
	}
	return err
}

// digestsOfTags are what all tags but the given ones name.
func (r *Registry) digestsOfTags(but map[string]bool) (all []digest.Digest) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for key, t := range r.tags {
		if !but[key] {
			all = append(all, t.row.Digest)
		}
	}
	return all
}
