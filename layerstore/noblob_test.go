package layerstore

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Only what says that a file is no blob lets it be removed.
func TestAFileThatCannotBeReadIsNotTakenForNoBlob(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&DigestError{Want: digest.FromString("a"), Got: digest.FromString("b")}, true},
		{unix.EISDIR, true},
		{unix.ELOOP, true},
		{unix.EIO, false},
		{unix.EACCES, false},
		{unix.EPERM, false},
		{unix.EMFILE, false},
		{unix.ENFILE, false},
		{unix.ENOMEM, false},
		{unix.EUCLEAN, false}, // the file system is damaged
		{unix.ESTALE, false},  // or on a network
		{unix.ENODATA, false}, // or on a disk with bad sectors
		{errors.New("anything else"), false},
	} {
		for _, err := range []error{c.err, &fs.PathError{Op: "open", Path: "x", Err: c.err}, fmt.Errorf("read: %w", c.err)} {
			if got := noBlob(err); got != c.want {
				t.Errorf("%v says that a file is no blob: %v, want %v", err, got, c.want)
			}
		}
	}
}
