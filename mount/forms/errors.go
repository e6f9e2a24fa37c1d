package forms

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrClosed: the forms were closed while, or before, they were asked.
	ErrClosed = errors.New("the forms are closed")
	// ErrNotFound: there is no form of this number.
	ErrNotFound = errors.New("there is no such form")
	// ErrNewer: the forms were written by a later version of their format.
	ErrNewer = errors.New("the forms were written by a newer version of imagecache")
	// ErrBusy: another process has the forms open.
	ErrBusy = errors.New("another imagecache is using these forms")
)

// Reasons for which a form could not be made, as Stats count them.
const (
	ReasonBlob     = "blob"     // the compressed bytes could not be had, twice
	ReasonDiffID   = "diff_id"  // the bytes do not hash to the diff ID
	ReasonLayer    = "layer"    // the layer is no sound tar, or hostile
	ReasonLimit    = "limit"    // the layer passes a limit
	ReasonUnfit    = "unfit"    // the file system here cannot hold what the layer has
	ReasonSpace    = "space"    // no space left on the disk
	ReasonDisk     = "disk"     // the disk refused otherwise
	ReasonUnwanted = "unwanted" // nobody waited for it any more
	ReasonClosed   = "closed"   // the forms were closed meanwhile
	ReasonPanic    = "panic"    // a fault of the program
)

// MakeError says why the form of a layer could not be made. Nothing of it is kept.
type MakeError struct {
	DiffID digest.Digest
	Reason string // one of the Reason constants
	Err    error
}

func (e *MakeError) Error() string { return fmt.Sprintf("unpack layer %s: %v", e.DiffID, e.Err) }
func (e *MakeError) Unwrap() error { return e.Err }

// DiffIDError says that a layer's tar stream does not hash to the diff ID that
// its image's config names.
type DiffIDError struct{ Want, Got digest.Digest }

func (e *DiffIDError) Error() string {
	return fmt.Sprintf("the uncompressed layer hashes to %s, the image's config says %s", e.Got, e.Want)
}
