package erofs

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/imagecache/imagecache/mount/layertree"
)

// prefixes are the beginnings of names that stand for a number on disk. The
// kernel knows attributes of no other kind.
var prefixes = []struct {
	number byte
	text   string
	whole  bool // the text is all of the name
}{
	{1, "user.", false},
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{4, "trusted.", false},
	{6, "security.", false},
}

// prefixOf cuts a name into its prefix's number and the rest; 0: the kernel would
// refuse to set such an attribute, and none is written.
func prefixOf(name string) (number byte, rest string) {
	for _, p := range prefixes {
		rest, found := strings.CutPrefix(name, p.text)
		if found && p.whole == (rest == "") {
			return p.number, rest
		}
	}
	return 0, ""
}

// xattrSize is how many bytes one attribute takes; 0: it is left out.
func xattrSize(x layertree.Xattr) int {
	number, rest := prefixOf(x.Name)
	if number == 0 {
		return 0
	}
	return int(roundUp(int64(xattrEntrySize+len(rest)+len(x.Value)), 4))
}

// xattrsSize is how many bytes the attributes of one inode take.
func xattrsSize(xattrs []layertree.Xattr) int {
	size := 0
	for _, x := range xattrs {
		size += xattrSize(x)
	}
	if size > 0 {
		size += xattrHeaderSize
	}
	return size
}

// xattrCount is how an inode says that size: the header counts one, then words.
func xattrCount(size int) uint16 {
	if size == 0 {
		return 0
	}
	return uint16((size-xattrHeaderSize)/4 + 1)
}

// maxXattrs is the most that xattrCount can say, in bytes.
const maxXattrs = xattrHeaderSize + (math.MaxUint16-1)*4

func checkXattrs(xattrs []layertree.Xattr) error {
	for _, x := range xattrs {
		if _, rest := prefixOf(x.Name); len(rest) > maxNameSize || len(x.Value) > math.MaxUint16 {
			return &UnfitError{Why: fmt.Sprintf("the attribute %.255q has a name of %d and a value of %d bytes; it may have %d and %d",
				x.Name, len(x.Name), len(x.Value), maxNameSize, math.MaxUint16)}
		}
	}
	if size := xattrsSize(xattrs); size > maxXattrs {
		return &UnfitError{Why: fmt.Sprintf("its attributes have %d bytes, more than %d", size, maxXattrs)}
	}
	return nil
}

func appendXattrs(b []byte, xattrs []layertree.Xattr) []byte {
	if xattrsSize(xattrs) == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeaderSize)...)
	for _, x := range xattrs {
		if number, rest := prefixOf(x.Name); number != 0 {
			b = append(b, byte(len(rest)), number)
			b = binary.LittleEndian.AppendUint16(b, uint16(len(x.Value)))
			b = append(append(b, rest...), x.Value...)
			b = append(b, make([]byte, -len(b)&3)...)
		}
	}
	return b
}
