package registry

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// againAfter is how old a row must be for another push of the same to write it
// anew: it tells for how long a blob that nothing names is kept, which is a day.
const againAfter = time.Hour

// pushedBefore reports whether a repository has what is pushed to it, under all
// of these tags: then there is nothing to write. Pipelines push images again
// that are there, layer by layer.
func (r *Registry) pushedBefore(in Repository, d digest.Digest, row homeRow, tags []Reference) bool {
	known, err := (&home{r}).row(in, d)
	if err != nil {
		return false
	}
	age := time.Duration(row.At-known.At) * time.Second
	known.At = row.At
	if known != row || age < 0 || age > againAfter {
		return false
	}
	return !slices.ContainsFunc(tags, func(ref Reference) bool {
		t, here := r.tagged(ref.String())
		return !here || t.row.Digest != d
	})
}
