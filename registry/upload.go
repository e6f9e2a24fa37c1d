package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// Upload is a blob that a client is sending to a home, in one piece or in
// several. What came is kept between the pieces, over a broken connection and
// over a restart, and for as long as the store keeps what nobody goes on with.
type Upload struct {
	ID     string
	Offset int64 // bytes that came so far
}

// Piece is what one request sends of an upload.
type Piece struct {
	// From is the byte that it begins with; negative: the one behind what came.
	From int64
	// Length is how many bytes it has; negative: nobody said.
	Length int64
	Body   io.Reader
}

const (
	// uploadBuffer is what one upload holds in memory, in bytes.
	uploadBuffer = 256 << 10
	// busyRest is when who was told that an upload is busy may try again.
	busyRest = time.Second
)

// rootOfUpload begins the names of the store's ingests that are uploads.
const rootOfUpload = "upload "

func ingestOf(in Repository, id string) string { return rootOfUpload + in.String() + " " + id }

// StartUpload begins an upload to a home, or through to an upstream. by names who
// does, "" for nobody in particular; what one caller leaves behind has an end.
// Errors have [CodeUnsupported] where the registry is neither, [CodeTooMany] where
// the caller has begun too many and ended none.
func (r *Registry) StartUpload(ctx context.Context, in Repository, by string) (Upload, error) {
	through, err := r.destination(ctx, in)
	if err == nil && through != nil {
		err = r.pushed(ctx, in, through.upstream.mayPush(ctx, in.Path))
	}
	if err != nil {
		return Upload{}, err
	}
	if through != nil && by == "" {
		by = callerOf(ctx).user() // whom upstream has just accepted
	}
	tag := pusherTag(by)
	if err := r.boundUploads(tag); err != nil {
		return Upload{}, r.about(in.String(), err)
	}
	id := tag + rand.Text()
	i, err := r.store.Ingest(ingestOf(in, id), specs.Descriptor{})
	if err != nil {
		return Upload{}, err
	}
	return Upload{ID: id}, i.Close()
}

// UploadStatus tells how far an upload has come, also while a piece of it is
// being sent. Errors have [CodeUploadUnknown].
func (r *Registry) UploadStatus(_ context.Context, in Repository, id string) (Upload, error) {
	info, err := r.store.StatIngest(ingestOf(in, id))
	if err != nil {
		return Upload{}, r.uploadError(in, id, err)
	}
	return Upload{ID: id, Offset: info.Offset}, nil
}

// AppendUpload takes a piece. What came of a piece that breaks off is kept; of
// one that is not as long as it was said to be nothing is. Errors have
// [CodeUploadUnknown], [CodeRange] where the piece begins elsewhere,
// [CodeSizeInvalid] where it is of another length, and [CodeUploadInvalid] where
// another is being sent, by a client that has not fallen silent.
func (r *Registry) AppendUpload(_ context.Context, in Repository, id string, p Piece) (Upload, error) {
	i, s, err := r.openUpload(in, id, p)
	if err != nil {
		return Upload{}, err
	}
	defer r.sendings.end(s)
	err = receive(i, s, p.Length)
	u := Upload{ID: id, Offset: i.Info().Offset}
	return u, r.uploadError(in, id, errors.Join(err, i.Close()))
}

// FinishUpload takes the last piece, which may be empty, and makes the whole a
// blob of the repository. It is durable when it returns. Errors are those of
// AppendUpload, and one with [CodeDigestInvalid] where the bytes are of another
// digest: then the upload is over.
func (r *Registry) FinishUpload(ctx context.Context, in Repository, id string, d digest.Digest, p Piece) error {
	through, err := r.destination(ctx, in)
	if err != nil {
		return err
	}
	i, s, err := r.openUpload(in, id, p)
	if err != nil {
		return err
	}
	defer r.sendings.end(s)
	defer i.Close()
	if err := receive(i, s, p.Length); err != nil {
		return r.uploadError(in, id, err)
	}
	// Held from before the commit, which finds the blob here when somebody was
	// faster, until it has its root.
	lease := r.store.Lease()
	defer lease.Release()
	lease.Hold(d)
	root := ""
	if through == nil {
		root = homeRoot(in, d)
	}
	_, err = i.CommitRooted(ctx, root, specs.Descriptor{Digest: d})
	var wrong *layerstore.DigestError
	switch {
	case errors.As(err, &wrong):
		return errors.Join(&Error{Code: CodeDigestInvalid, Reference: d.String(), Message: "what was sent has the digest " + wrong.Got.String() + "; begin a new upload"},
			r.dropUpload(in, id))
	case err != nil && !errors.Is(err, layerstore.ErrExists):
		return r.uploadError(in, id, err)
	}
	if through != nil {
		return r.passBlob(ctx, *through, d)
	}
	return r.enterPushed(in, d)
}

// CancelUpload ends an upload and drops what came. Who is sending a piece of it
// is told that there is no such upload.
func (r *Registry) CancelUpload(_ context.Context, in Repository, id string) error {
	return r.uploadError(in, id, r.store.AbortIngest(ingestOf(in, id)))
}

// dropUpload is CancelUpload for one that may be over already.
func (r *Registry) dropUpload(in Repository, id string) error {
	err := r.store.AbortIngest(ingestOf(in, id))
	if errors.Is(err, layerstore.ErrNotFound) {
		return nil
	}
	return err
}

// openUpload opens an upload that was started, for a piece that follows what
// came.
func (r *Registry) openUpload(in Repository, id string, p Piece) (*layerstore.Ingest, *sending, error) {
	name := ingestOf(in, id)
	before, err := r.store.StatIngest(name)
	if err != nil {
		return nil, nil, r.uploadError(in, id, err)
	}
	i, err := r.store.Ingest(name, specs.Descriptor{})
	if errors.Is(err, layerstore.ErrBusy) && r.sendings.displace(name, r.now()) {
		i, err = r.store.Ingest(name, specs.Descriptor{})
	}
	if err != nil {
		return nil, nil, r.uploadError(in, id, err)
	}
	if !i.Info().Started.Equal(before.Started) { // it ended meanwhile, and this is another one, begun just now
		return nil, nil, r.uploadError(in, id, errors.Join(layerstore.ErrNotFound, i.Close(), r.dropUpload(in, id)))
	}
	if at := i.Info().Offset; p.From >= 0 && p.From != at {
		return nil, nil, errors.Join(&Error{Code: CodeRange, Reference: in.String(),
			Message: fmt.Sprintf("the piece begins with byte %d, and what came ends before byte %d", p.From, at)}, i.Close())
	}
	return i, r.sendings.begin(name, i, p.Body, r.now), nil
}

// receive writes a piece. What broke off is kept, for the client to go on with; of
// what contradicts itself nothing is, because which of it is meant nobody knows.
func receive(i *layerstore.Ingest, s *sending, length int64) error {
	at := i.Info().Offset
	body := io.Reader(s)
	if length >= 0 {
		body = io.LimitReader(s, length+1)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{i}, body, make([]byte, uploadBuffer))
	if err == nil && length >= 0 && n != length {
		return errors.Join(&Error{Code: CodeSizeInvalid, Message: "the body is not as long as its Content-Range says; nothing of it is kept"}, i.Truncate(at))
	}
	return err
}

func (r *Registry) uploadError(in Repository, id string, err error) error {
	switch {
	case errors.Is(err, layerstore.ErrEnded):
		if r.ctx.Err() != nil {
			return layerstore.ErrClosed
		}
		if _, gone := r.store.StatIngest(ingestOf(in, id)); gone == nil {
			return busy(in, "another request has gone on with this upload, after this one was silent for long")
		}
		fallthrough // who cancelled it ended it
	case errors.Is(err, layerstore.ErrNotFound):
		return NoUpload(in, id)
	case errors.Is(err, layerstore.ErrBusy):
		return busy(in, "another piece of this upload is being sent")
	}
	return r.about(in.String(), err)
}

// NoUpload is the error of an upload that is not there.
func NoUpload(in Repository, id string) *Error {
	return &Error{Code: CodeUploadUnknown, Reference: in.String(), Message: "there is no upload " + quoted(id) + "; begin a new one"}
}

func busy(in Repository, why string) *Error {
	return &Error{Code: CodeUploadInvalid, Reference: in.String(), Message: why, RetryAfter: busyRest}
}
