package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// bucketReferrers finds what refers to a manifest of a home without a look at
// all of its repository. Its rows follow from those of bucketHome.
var bucketReferrers = []byte("referrers")

// referrersAtOnce is how many referrers one page looks at: more than fit into it.
const referrersAtOnce = referrersPageMost / 150

// referrersOf begins the keys of what refers to a manifest; a digest follows.
func referrersOf(in Repository, subject digest.Digest) string {
	return string(holdKey(in, subject)) + " "
}

// referrerKey is the key of the row of what was pushed, of which key is the key
// of the row in bucketHome. The value is its artifact type.
func referrerKey(key string, subject digest.Digest) []byte {
	repository, d, _ := strings.Cut(key, "@")
	return []byte(repository + "@" + subject.String() + " " + d)
}

// referrersPage lists what refers to a manifest of a repository, and what a client
// that knew no referrers API listed under the fallback tag
// (distribution-spec, "Referrers Tag Schema"), in the order of digests.
func (h *home) referrersPage(in Repository, of digest.Digest, q ReferrersQuery) (ReferrersPage, error) {
	digests, err := h.referring(in, of, q)
	if err != nil {
		return ReferrersPage{}, err
	}
	for _, d := range h.byFallbackTag(in, of) {
		if d > q.After {
			digests = append(digests, d)
		}
	}
	slices.Sort(digests)
	digests = slices.Compact(digests)
	page := ReferrersPage{Manifests: []specs.Descriptor{}}
	if len(digests) > referrersAtOnce {
		digests = digests[:referrersAtOnce]
		page.Next = digests[len(digests)-1]
	}
	size := 0
	for i, d := range digests {
		m, err := h.r.local(d)
		if err != nil {
			continue // it is damaged, or was deleted just now
		}
		found := asReferrer(m)
		if q.ArtifactType != "" && found.ArtifactType != q.ArtifactType {
			continue
		}
		if size += sizeInList(found); size > referrersPageMost && len(page.Manifests) > 0 {
			page.Next = digests[i-1]
			break
		}
		page.Manifests = append(page.Manifests, found)
	}
	return page, nil
}

// referring are the digests of the next referrers that were pushed, and at
// least one too many if there are more than fit into a page.
func (h *home) referring(in Repository, of digest.Digest, q ReferrersQuery) (digests []digest.Digest, err error) {
	err = h.r.state.db.View(func(tx *bolt.Tx) error {
		prefix := slices.Clip([]byte(referrersOf(in, of)))
		c := tx.Bucket(bucketReferrers).Cursor()
		for k, v := c.Seek(append(prefix, q.After...)); bytes.HasPrefix(k, prefix) && len(digests) <= referrersAtOnce; k, v = c.Next() {
			d := digest.Digest(k[len(prefix):])
			if d > q.After && (q.ArtifactType == "" || q.ArtifactType == string(v)) {
				digests = append(digests, d)
			}
		}
		return nil
	})
	return digests, err
}

// byFallbackTag leaves out what is not in the repository: clients forget to
// take from the tag's list what they delete.
func (h *home) byFallbackTag(in Repository, of digest.Digest) (digests []digest.Digest) {
	got, err := h.manifest(Reference{Repository: in, Tag: referrersTag(of)})
	if err != nil || !isIndex(got.Descriptor.MediaType) {
		return nil
	}
	for _, d := range got.parsed.manifests {
		if row, err := h.row(in, d.Digest); err == nil && row.MediaType != "" {
			digests = append(digests, d.Digest)
		}
	}
	return digests
}

// referrers lists all that refers to a manifest of a repository.
func (h *home) referrers(in Repository, of digest.Digest) (all []specs.Descriptor, err error) {
	var q ReferrersQuery
	for {
		page, err := h.referrersPage(in, of, q)
		all = append(all, page.Manifests...)
		if err != nil || page.Next == "" {
			return all, err
		}
		q.After = page.Next
	}
}

// putReferrer writes the row of what refers to something; key is that of its row in bucketHome.
func putReferrer(tx *bolt.Tx, key string, row homeRow) error {
	if row.Subject == "" {
		return nil
	}
	return tx.Bucket(bucketReferrers).Put(referrerKey(key, row.Subject), []byte(row.ArtifactType))
}

// deleteReferrer takes the row away that [putReferrer] wrote.
func deleteReferrer(tx *bolt.Tx, key string) error {
	var row homeRow
	if value := tx.Bucket(bucketHome).Get([]byte(key)); value == nil || json.Unmarshal(value, &row) != nil {
		return nil
	}
	return tx.Bucket(bucketReferrers).Delete(referrerKey(key, row.Subject))
}

// alignReferrers makes the rows of referrers those that follow from what was
// pushed: a version that knew none may have pushed and deleted.
func (r *Registry) alignReferrers() error {
	missing, gone, err := r.referrersAmiss()
	if err != nil || len(missing)+len(gone) == 0 {
		return err
	}
	for key, row := range missing {
		_, d, _ := strings.Cut(key, "@")
		if m, err := r.local(digest.Digest(d)); err == nil {
			row.ArtifactType = asReferrer(m).ArtifactType
			missing[key] = row
		}
	}
	return r.state.db.Update(func(tx *bolt.Tx) error {
		var errs error
		for _, key := range gone {
			errs = errors.Join(errs, tx.Bucket(bucketReferrers).Delete(key))
		}
		for key, row := range missing {
			errs = errors.Join(errs, put(tx, bucketHome, key, row), putReferrer(tx, key, row))
		}
		return errs
	})
}

// referrersAmiss finds rows of bucketHome with a subject and without a row in
// bucketReferrers, by key, and the keys of rows there without one in bucketHome.
func (r *Registry) referrersAmiss() (missing map[string]homeRow, gone [][]byte, err error) {
	missing = map[string]homeRow{}
	err = r.state.db.View(func(tx *bolt.Tx) error {
		pushed, rows := tx.Bucket(bucketHome), tx.Bucket(bucketReferrers)
		if err := rows.ForEach(func(k, _ []byte) error {
			named, d, _ := strings.Cut(string(k), " ")
			repository, subject, _ := strings.Cut(named, "@")
			var row homeRow
			if json.Unmarshal(pushed.Get([]byte(repository+"@"+d)), &row) != nil || row.Subject.String() != subject {
				gone = append(gone, bytes.Clone(k))
			}
			return nil
		}); err != nil {
			return err
		}
		return pushed.ForEach(func(k, v []byte) error {
			var row homeRow
			if !bytes.Contains(v, []byte(`"subject"`)) {
				return nil // as nearly all: they need not be parsed at each start
			}
			if err := json.Unmarshal(v, &row); err != nil {
				return err
			}
			if row.Subject != "" && rows.Get(referrerKey(string(k), row.Subject)) == nil {
				missing[string(k)] = row
			}
			return nil
		})
	})
	return missing, gone, err
}
