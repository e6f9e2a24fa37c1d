package erofs

import (
	"errors"
	"fmt"
)

// UnfitError says why a tree cannot be told in EROFS. Its other form, a folder,
// may hold it all the same.
type UnfitError struct {
	Path string // within the layer; of a file's bytes, which have no name yet: empty
	Why  string
}

func (e *UnfitError) Error() string {
	if e.Path == "" {
		return "EROFS cannot hold this layer: " + e.Why
	}
	return fmt.Sprintf("EROFS cannot hold %.500q: %s", e.Path, e.Why) // a path may have megabytes
}

// errTooLarge: numbers of blocks have 32 bits.
var errTooLarge = &UnfitError{Why: "it needs more than 16 TiB"}

// errFinished is the answer of a Writer that is done, or that failed before.
var errFinished = errors.New("this EROFS file was finished, or failed, before")
