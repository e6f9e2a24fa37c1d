package erofs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// sampleText is longer than what may be inline, so that a read of it is one of
// data.
var sampleText = strings.Repeat("imagecache ", blockSize)

// writeSample writes the layer that a probe mounts: a file, a whiteout, and a
// folder that hides what is below it.
func writeSample(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := NewWriter(f)
	defer w.Close()
	content, err := w.File(strings.NewReader(sampleText), int64(len(sampleText)))
	if err != nil {
		return err
	}
	if _, err := w.Finish(&layertree.Tree{Root: sampleTree(content)}); err != nil {
		return err
	}
	return nil
}

func sampleTree(content int64) *layertree.Node {
	then := time.Unix(1, 0)
	return &layertree.Node{Mode: unix.S_IFDIR | 0o755, ModTime: then, Links: 1, Children: map[string]*layertree.Node{
		"file": {Mode: unix.S_IFREG | 0o644, ModTime: then, Links: 1, Size: int64(len(sampleText)), Content: content},
		"gone": {Mode: unix.S_IFCHR, ModTime: then, Links: 1},
		"folder": {Mode: unix.S_IFDIR | 0o755, ModTime: then, Links: 1,
			Xattrs: []layertree.Xattr{{Name: "trusted.overlay.opaque", Value: "y"}}},
	}}
}

// checkSample looks for the file in what was mounted.
func checkSample(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "file"))
	if err == nil && string(b) != sampleText {
		err = errors.New("what is read from it is not what was written")
	}
	return err
}

// checkOverlay looks whether the layer hides what it should.
func checkOverlay(dir string) error {
	if err := checkSample(dir); err != nil {
		return err
	}
	for _, name := range []string{"gone", "folder/hidden"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s should be hidden (%v)", name, err)
		}
	}
	return nil
}
