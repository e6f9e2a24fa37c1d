package registry

import (
	"context"
	"path"
	"time"
)

const (
	// What upstream says of a tag's lifetime (Cache-Control: max-age) is
	// honoured within these factors of the tag_ttl that the operator chose.
	lifetimeLeast = 0.1
	lifetimeMost  = 10
	// A tag that was asked for this often in its lifetime is asked about ahead
	// of its end, so that none of those who ask waits for upstream.
	oftenAsked = 32
	// When that is, in parts of the lifetime.
	aheadAt = 0.8
)

// lifetime is how long a row is answered without asking upstream: by the
// longest pattern that fits the tag (of two, the first by the alphabet), else by what upstream said, else by the
// upstream's tag_ttl.
func (u *upstream) lifetime(ref Reference, row tagRow) time.Duration {
	ttl, chosen := u.options.TagTTL, ""
	for pattern, d := range u.options.TagTTLs {
		longer := len(pattern) > len(chosen) || len(pattern) == len(chosen) && pattern < chosen
		if longer && fits(pattern, ref) {
			ttl, chosen = d, pattern
		}
	}
	if chosen != "" || row.MaxAge == 0 {
		return ttl
	}
	return min(max(row.MaxAge, time.Duration(lifetimeLeast*float64(ttl))), lifetimeMost*ttl)
}

// fits reports whether a pattern of a tag ("v*"), or of a repository and a tag
// ("library/*:latest"), fits a reference; path.Match tells the form.
func fits(pattern string, ref Reference) bool {
	if ok, _ := path.Match(pattern, ref.Tag); ok {
		return true
	}
	ok, _ := path.Match(pattern, ref.Path+":"+ref.Tag)
	return ok
}

// freshness of a tag's row.
type freshness int

const (
	fresh   freshness = iota
	old               // upstream is to be asked, and the row answers if it cannot be
	expired           // older than stale_max: the row does not answer
)

func (r *Registry) freshness(v view, ref Reference, t tag) freshness {
	return v.freshness(ref, t, r.now().Sub(t.checked))
}

// freshness of a row that upstream confirmed so long ago.
func (v view) freshness(ref Reference, t tag, age time.Duration) freshness {
	most := v.upstream.options.StaleMax
	switch {
	case age >= 0 && age < v.upstream.lifetime(ref, t.row): // below 0 the clock was set back
		return fresh
	case most > 0 && age >= most:
		return expired
	}
	return old
}

// ahead asks about a tag that is fresh still, that many ask for, and that
// ends soon. Nobody waits for it.
func (r *Registry) ahead(v view, ref Reference, t tag, age time.Duration) {
	if t.count.Add(1) < oftenAsked {
		return
	}
	if float64(age) < aheadAt*float64(v.upstream.lifetime(ref, t.row)) {
		return
	}
	if _, _, resting := v.upstream.resting(); resting {
		return
	}
	if !t.asking.CompareAndSwap(false, true) {
		return
	}
	r.background(func() {
		defer t.asking.Store(false)
		_, _, _ = ask(r.ctx, r, v.key("tag", ref), func(ctx context.Context) (tag, error) {
			return r.refresh(ctx, v, ref, t)
		}) // what came of it is in the row
	})
}
