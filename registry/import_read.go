package registry

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// membersMost is how many files an archive may have: ten thousand layers of
	// docker save's old form, three files each, are far below.
	membersMost = 100_000
	// importBuffer is what one import holds in memory for bytes under way.
	importBuffer = 256 << 10
)

// read takes all of the archive in.
func (i *importing) read(ctx context.Context, from io.Reader) error {
	plain, _, err := unzip(from)
	if err != nil {
		return readFault(ctx, "its first bytes", err)
	}
	defer plain.Close()
	archive := tar.NewReader(plain)
	for n := 0; ; n++ {
		h, err := archive.Next()
		if err == io.EOF {
			// Who sends it wants to be rid of all of it, the padding too.
			_, _ = io.Copy(io.Discard, plain)
			_, _ = io.Copy(io.Discard, from)
			return ctx.Err()
		}
		if err != nil {
			return readFault(ctx, "its next file", err)
		}
		if n == membersMost {
			return badArchive("it has more than %d files", membersMost)
		}
		if err := i.member(ctx, h, archive); err != nil {
			return err
		}
	}
}

// readFault tells an archive that is wrong from one that broke off, or whose
// sender left.
func readFault(ctx context.Context, at string, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, tar.ErrHeader):
		return badArchive("%s cannot be read, it is no tar or a damaged one: %v", at, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badArchive("it ends in the middle of %s, or is no tar", at)
	}
	return err
}

// member takes one file in.
func (i *importing) member(ctx context.Context, h *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(h.Name, "./")
	if sparse(h) {
		return badArchive("%s is stored with holes, which no tool does with images", quoted(name))
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeDir:
		if name = strings.TrimSuffix(name, "/"); name != "" && !fs.ValidPath(name) {
			return badArchive("the folder %s lies outside of it", quoted(h.Name))
		}
		return nil
	case tar.TypeReg, tar.TypeSymlink:
	default:
		return badArchive("%s is neither a file nor a folder", quoted(h.Name))
	}
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") {
		return badArchive("%s is not a path within it", quoted(h.Name))
	}
	if i.has(name) {
		return badArchive("%s is in it twice", quoted(name))
	}
	if h.Typeflag == tar.TypeSymlink {
		return i.link(name, h.Linkname)
	}
	return i.file(ctx, name, h.Size, content)
}

func (i *importing) has(name string) bool {
	_, blob := i.members[name]
	_, link := i.links[name]
	_, small := i.small[name]
	return blob || link || small
}

// sparse files make a few bytes into terabytes.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// link notes a symbolic link: docker save's old form has them for layers that
// several images share.
func (i *importing) link(name, to string) error {
	target := path.Join(path.Dir(name), to)
	if path.IsAbs(to) || !fs.ValidPath(target) {
		return badArchive("%s points out of it", quoted(name))
	}
	i.links[name] = target
	return nil
}

// file takes a regular file: one that tells what is what, or a blob.
func (i *importing) file(ctx context.Context, name string, size int64, content io.Reader) error {
	switch {
	case name == specs.ImageLayoutFile || name == specs.ImageIndexFile || name == dockerManifestFile || name == dirVersionFile:
		return i.tell(ctx, name, size, content)
	case name == "repositories" || path.Base(name) == "VERSION" || path.Base(name) == "json":
		i.small[name] = nil // docker save's for docker 1.9, which nobody reads
		return nil
	}
	var want digest.Digest
	if rest, ok := strings.CutPrefix(name, specs.ImageBlobsDir+"/"); ok {
		algorithm, hex, _ := strings.Cut(rest, "/")
		var err error
		if want, err = ParseDigest(algorithm + ":" + hex); err != nil {
			return badArchive("%s is not the path of a blob of sha256 or sha512", quoted(name))
		}
	}
	got, err := i.take(ctx, name, want, content)
	if err != nil {
		return err
	}
	i.members[name] = member{got, size}
	return nil
}

func (i *importing) tell(ctx context.Context, name string, size int64, content io.Reader) error {
	if size > maxManifest {
		return badArchive("%s is larger than %d bytes", name, maxManifest)
	}
	all, err := io.ReadAll(content)
	if err != nil {
		return readFault(ctx, name, err)
	}
	i.small[name] = all
	return nil
}

// take keeps a blob, of a digest that is known before or not, or compares it
// with the one that is here.
func (i *importing) take(ctx context.Context, name string, want digest.Digest, content io.Reader) (digest.Digest, error) {
	if want != "" {
		i.lease.Hold(want) // before it is looked whether it is here
	}
	ingest := "import " + rand.Text()
	in, err := i.r.store.Ingest(ingest, specs.Descriptor{Digest: want})
	if errors.Is(err, layerstore.ErrExists) {
		i.known++
		return want, i.compare(ctx, name, want, content)
	}
	if err != nil {
		return "", err
	}
	d, err := i.fill(ctx, in, name, content)
	if err != nil {
		in.Close()
		return "", errors.Join(wrongBytes(name, err), ignoreAbsent(i.r.store.AbortIngest(ingest)))
	}
	return d, nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, layerstore.ErrNotFound) {
		return nil
	}
	return err
}

// fill writes a blob in and seals it.
func (i *importing) fill(ctx context.Context, in *layerstore.Ingest, name string, content io.Reader) (digest.Digest, error) {
	n, err := io.CopyBuffer(struct{ io.Writer }{in}, content, make([]byte, importBuffer))
	if err != nil {
		return "", readFault(ctx, name, err)
	}
	d := in.Digest()
	i.lease.Hold(d)
	_, err = in.Commit(ctx, specs.Descriptor{})
	if errors.Is(err, layerstore.ErrExists) {
		i.known++
		return d, nil
	}
	if err != nil {
		return "", err
	}
	i.fresh = append(i.fresh, d)
	i.bytes += n
	return d, nil
}

// compare reads a blob that is here already.
func (i *importing) compare(ctx context.Context, name string, want digest.Digest, content io.Reader) error {
	h := want.Algorithm().Hash()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{content}, make([]byte, importBuffer)); err != nil {
		return readFault(ctx, name, err)
	}
	if got := digest.NewDigest(want.Algorithm(), h); got != want {
		return wrongBytes(name, &layerstore.DigestError{Want: want, Got: got})
	}
	return nil
}

// wrongBytes is an error of the archive where its bytes are not what their name says.
func wrongBytes(name string, err error) error {
	var wrong *layerstore.DigestError
	if errors.As(err, &wrong) {
		return badArchive("%s has the digest %s", name, wrong.Got)
	}
	return err
}
