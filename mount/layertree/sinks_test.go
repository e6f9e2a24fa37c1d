package layertree_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/imagecache/imagecache/mount/layertree"
)

// memory is a Sink that keeps all it is given.
type memory struct{ files []string }

func (m *memory) File(r io.Reader, size int64) (int64, error) {
	data, err := io.ReadAll(r)
	if err == nil && int64(len(data)) != size {
		err = io.ErrShortWrite
	}
	m.files = append(m.files, string(data))
	return int64(len(m.files)), err
}

func (m *memory) of(n *layertree.Node) string {
	if n.Content == 0 {
		return ""
	}
	return m.files[n.Content-1]
}

// count is a Sink that forgets all but the number of bytes.
type count struct{ files, bytes int64 }

func (c *count) File(r io.Reader, _ int64) (int64, error) {
	n, err := io.Copy(io.Discard, r)
	c.bytes += n
	c.files++
	return c.files, err
}

// readAlone reads a base layer.
func readAlone(r io.Reader, limits layertree.Limits, sink layertree.Sink) (*layertree.Tree, error) {
	parents, err := layertree.OpenParents(nil)
	if err != nil {
		return nil, err
	}
	tree, err := layertree.Read(context.Background(), r, layertree.Options{Limits: limits}, parents, sink)
	return tree, errors.Join(err, parents.Close())
}

func mustRead(t testing.TB, tar []byte) (*layertree.Tree, *memory) {
	t.Helper()
	sink := new(memory)
	tree, err := readAlone(bytes.NewReader(tar), layertree.Limits{}, sink)
	if err != nil {
		t.Fatal(err)
	}
	return tree, sink
}

// isRefused, isLimit and needsParent say of which type an error is.
func isRefused(err error) bool   { return errors.As(err, new(*layertree.RefusedError)) }
func isLimit(err error) bool     { return errors.As(err, new(*layertree.LimitError)) }
func needsParent(err error) bool { return errors.As(err, new(*layertree.NeedsParentError)) }
