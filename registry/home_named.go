package registry

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// missingIn holds what a manifest names against what is in its repository.
// Config and layers must be there, but for layers that are not distributed, and
// in homes that are told to take images without.
// Children of an index that are not are counted: who mirrors one platform of an
// image pushes its index as it is. A subject may come later. Whatever is there
// must be as it is described, because whoever pulls refuses anything else.
func (r *Registry) missingIn(in Repository, m *Manifest, subject *specs.Descriptor) (missing, error) {
	n := comparison{known: map[digest.Digest]homeRow{}}
	if err := r.rowsOf(in, m, subject, n.known); err != nil {
		return missing{}, err
	}
	if m.parsed.config != nil {
		n.blob(*m.parsed.config)
	}
	for _, d := range m.parsed.layers {
		if _, here := n.known[d.Digest]; here || !isForeign(d) {
			n.blob(d)
		}
	}
	for _, d := range m.parsed.manifests {
		n.child(d)
	}
	if subject != nil && n.known[subject.Digest].MediaType != "" {
		n.described(*subject)
	}
	if u := r.homeOf(in); u != nil && u.options.Sparse {
		return missing{children: n.children, blobs: len(n.absent)}, faulty(CodeManifestInvalid, n.wrong)
	}
	if err := faulty(CodeManifestBlobUnknown, n.absent); err != nil {
		return missing{}, err
	}
	return missing{children: n.children}, faulty(CodeManifestInvalid, n.wrong)
}

// missing counts what a manifest names that its repository has not, and need not have.
type missing struct{ children, blobs int }

func (m missing) warnings() (warnings []string) {
	if m.children > 0 {
		warnings = append(warnings, fmt.Sprintf("%d of the manifests that this index names are not in the repository", m.children))
	}
	if m.blobs > 0 {
		warnings = append(warnings, fmt.Sprintf("%d of the blobs that this manifest names are not in the repository", m.blobs))
	}
	return warnings
}

// rowsOf reads what is known of all that a manifest names, at once.
func (r *Registry) rowsOf(in Repository, m *Manifest, subject *specs.Descriptor, into map[digest.Digest]homeRow) error {
	names := m.parsed.digests()
	if subject != nil {
		names = append(names, subject.Digest)
	}
	return r.state.db.View(func(tx *bolt.Tx) error {
		for _, d := range names {
			value := tx.Bucket(bucketHome).Get(holdKey(in, d))
			if value == nil {
				continue
			}
			var row homeRow
			if err := json.Unmarshal(value, &row); err != nil {
				return fmt.Errorf("row %s of %s: %w", holdKey(in, d), bucketHome, err)
			}
			into[d] = row
		}
		return nil
	})
}

// comparison is of what a manifest names with what a repository has.
type comparison struct {
	known         map[digest.Digest]homeRow
	absent, wrong []Fault
	children      int // that are not there
}

func (n *comparison) blob(d specs.Descriptor) {
	if _, here := n.known[d.Digest]; !here {
		n.known[d.Digest] = homeRow{Size: d.Size} // said once is enough
		n.absent = append(n.absent, Fault{d.Digest, fmt.Sprintf("%s is not in this repository: blobs are pushed before the manifest that names them", d.Digest)})
		return
	}
	n.sized(d)
}

// child is one of an index. Caches of builds are indexes whose children are layers.
func (n *comparison) child(d specs.Descriptor) {
	row, here := n.known[d.Digest]
	switch {
	case !here, row.MediaType == "" && (isIndex(d.MediaType) || isImage(d.MediaType)):
		n.children++
	case row.MediaType == "":
		n.sized(d)
	default:
		n.described(d)
	}
}

func (n *comparison) sized(d specs.Descriptor) {
	if row := n.known[d.Digest]; row.Size != d.Size {
		n.wrong = append(n.wrong, Fault{d.Digest, fmt.Sprintf("the manifest says that %s has %d bytes, in the repository it has %d", d.Digest, d.Size, row.Size)})
		row.Size = d.Size // said once is enough
		n.known[d.Digest] = row
	}
}

// described is for a manifest that the repository has.
func (n *comparison) described(d specs.Descriptor) {
	n.sized(d)
	if is := n.known[d.Digest].MediaType; is != d.MediaType {
		n.wrong = append(n.wrong, Fault{d.Digest, fmt.Sprintf("the manifest says that %s is %q, in the repository it is %s", d.Digest, d.MediaType, is)})
	}
}
