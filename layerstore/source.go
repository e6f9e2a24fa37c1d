package layerstore

import (
	"context"
	"errors"
	"io"
	"time"
)

// Source gives the bytes of one blob. An upstream registry is one kind of
// source; a peer is another. A source is asked by flights only, perhaps for
// several stretches of the same blob in parallel.
type Source interface {
	// Open asks for the half-open range [offset, end) of the blob; end is -1
	// for "to the end", so that (0, -1) is a plain request for all of it. The
	// body may begin before offset when the source does not know ranges:
	// Body.Offset tells. ctx governs the whole life of the body.
	//
	// An error with a method Permanent() bool that answers true (not found,
	// not allowed) is final; one with Wait() time.Duration is not asked
	// again before that. Any other error is taken as passing.
	Open(ctx context.Context, offset, end int64) (*Body, error)
}

// Rejecter is a [Source] that can send from elsewhere what proved wrong. It is
// told before it is asked again.
type Rejecter interface {
	Source
	// Reject says that bytes which the source sent are not those of the blob, by
	// their digest or by the size that it announced.
	Reject()
}

// reject tells a source that can make use of it that it sent what err says.
func reject(src Source, err error) {
	var wrong *DigestError
	var size *SizeError
	if r, ok := src.(Rejecter); ok && (errors.As(err, &wrong) || errors.As(err, &size)) {
		r.Reject()
	}
}

// Body is an open answer of a [Source]. Whoever got it closes it.
type Body struct {
	io.ReadCloser
	Offset int64 // where in the blob the first byte of the body stands
	Size   int64 // of the whole blob in bytes, -1 when the source did not say
}

// permanent reports whether asking the source again is of no use.
func permanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

// retryAfter is how long a source wants to be left alone, 0 when it did not say.
func retryAfter(err error) time.Duration {
	var w interface{ Wait() time.Duration }
	if errors.As(err, &w) {
		return w.Wait()
	}
	return 0
}
