package registry

import (
	"archive/tar"
	"bufio"
	"bytes"
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
	// rootOfImport begins the names of ingests that an import writes in.
	rootOfImport = "import "
	// membersMost is how many files an archive may have: ten thousand layers of
	// docker save's old form, three files each, are far below.
	membersMost = 100_000
	// pathMost is how long a path in an archive may be, in bytes: they are kept in memory until its end. Compressed, a
	// million bytes of a name are a few.
	pathMost = 1024
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
			return finish(ctx, plain, from)
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

// finish reads what follows the end of the tar: who sends it wants to be rid of all of it, and what compressed
// it has a checksum there. A second tar is told, or its images would be missed; what else stands on
// a disk or a tape behind an archive is not its.
func finish(ctx context.Context, plain, from io.Reader) error {
	behind := bufio.NewReaderSize(plain, importBuffer)
	another, err := anotherTar(behind)
	if another {
		return badArchive("another one follows its end: import them one by one")
	}
	if err == nil {
		_, err = io.Copy(io.Discard, behind)
	}
	if err != nil && err != io.EOF {
		return readFault(ctx, "its last bytes", err)
	}
	_, _ = io.Copy(io.Discard, from)
	return ctx.Err()
}

// anotherTar reads over zeros and tells whether a tar begins behind them, with io.EOF where nothing does.
func anotherTar(from *bufio.Reader) (bool, error) {
	for {
		block, err := from.Peek(tarBlock)
		if len(bytes.Trim(block, "\x00")) > 0 {
			_, err := tar.NewReader(from).Next()
			return err == nil, nil
		}
		if err != nil {
			return false, err
		}
		_, _ = from.Discard(tarBlock)
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
	if len(name) > pathMost || len(h.Linkname) > pathMost {
		return badArchive("a path in it has more than %d bytes: %s", pathMost, quoted(name[:min(len(name), 64)]))
	}
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
	return i.file(ctx, name, h, content)
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
func (i *importing) file(ctx context.Context, name string, h *tar.Header, content io.Reader) error {
	switch {
	case name == specs.ImageLayoutFile || name == specs.ImageIndexFile || name == dockerManifestFile || name == dirVersionFile:
		return i.tell(ctx, name, h, content)
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
	i.members[name] = member{got, h.Size}
	return nil
}

// tell keeps a file that tells what is what. Nothing but the checksum of an export of ours proves it.
func (i *importing) tell(ctx context.Context, name string, h *tar.Header, content io.Reader) error {
	if h.Size > maxManifest {
		return badArchive("%s is larger than %d bytes", name, maxManifest)
	}
	all, err := io.ReadAll(content)
	if err != nil {
		return readFault(ctx, name, err)
	}
	if want, err := ParseDigest(h.PAXRecords[checksumRecord]); err == nil && want.Algorithm().FromBytes(all) != want {
		return badArchive("%s is damaged: its checksum is another one", name)
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
	ingest := rootOfImport + rand.Text()
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

// dropBrokenImports drops what imports were writing when the process before this one
// ended: nobody goes on with an import, so that it would but take room.
func (r *Registry) dropBrokenImports() {
	left, err := r.store.Ingests()
	for _, one := range left {
		if strings.HasPrefix(one.Name, rootOfImport) {
			err = errors.Join(err, ignoreAbsent(r.store.AbortIngest(one.Name)))
		}
	}
	if err != nil {
		r.log.Warn("what a broken import left stays until room is wanted", "error", err)
	}
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
