package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// take reads the next bytes from the source, asking again after a break.
func (y *bypass) take(p []byte) (int, error) {
	for {
		n, err := y.receive(p)
		if n > 0 {
			y.tries = 0
			y.received += int64(n)
			y.at += int64(n)
			if y.hash != nil {
				y.hash.Write(p[:n])
			}
			return n, nil
		}
		if err == io.EOF {
			return 0, io.EOF // of a blob that is being measured
		}
		if errors.Is(err, errBehind) {
			y.hang()
			continue // by a request of its own
		}
		if err != nil {
			err = y.again(err)
		}
		if err != nil {
			return 0, err
		}
	}
}

// receive reads once. io.EOF is given only where the size is unknown.
func (y *bypass) receive(p []byte) (int, error) {
	if y.body == nil {
		if err := y.open(); err != nil {
			return 0, err
		}
	}
	for y.bodyAt < y.at {
		buf := chunks.Get().(*[]byte)
		n, err := y.listen((*buf)[:min(chunkSize, y.at-y.bodyAt)])
		chunks.Put(buf)
		if err != nil && (n == 0 || y.bodyAt < y.at) {
			return 0, noEarlyEnd(err)
		}
	}
	n, err := y.listen(p)
	if n == 0 && err == io.EOF && y.end >= 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// listen reads from the body; silence is a break.
func (y *bypass) listen(p []byte) (int, error) {
	hangUp := y.hangUp
	silent := time.AfterFunc(y.blob.store.stall<<min(y.tries, 3), func() { hangUp(ErrStalled) })
	defer silent.Stop()
	n, err := y.body.Read(p)
	y.bodyAt += int64(n)
	if err != nil && context.Cause(y.bodyCtx) == ErrStalled {
		err = ErrStalled
	}
	return n, err
}

// open asks the source for what is still to come.
func (y *bypass) open() error {
	at, end := y.at, y.end
	if at == 0 && end == y.blob.size {
		end = -1 // a plain request for the whole, which every registry knows
	}
	y.bodyCtx, y.hangUp = context.WithCancelCause(y.ctx)
	body, err := y.blob.store.openShared(y.bodyCtx, y.blob.digest, y.sources[0], at, end)
	if err != nil {
		y.hangUp(nil)
		return err
	}
	y.body, y.bodyAt = body, body.Offset
	if err := y.agree(body); err != nil {
		y.hang()
		return err
	}
	return nil
}

// agree checks an answer against what was asked and what is known.
func (y *bypass) agree(body *Body) error {
	if body.Offset > y.at {
		return fmt.Errorf("asked for bytes from %d, the source sends from %d", y.at, body.Offset)
	}
	b := y.blob
	if body.Size < 0 || body.Size == b.size {
		return nil
	}
	if b.size >= 0 {
		return &SizeError{Digest: b.digest, Want: b.size, Got: body.Size}
	}
	b.size, y.end = body.Size, body.Size
	return nil
}

// again rests after a break, as a flight does, and leaves a source that is at
// its end for the next one. It returns an error when there is none.
func (y *bypass) again(err error) error {
	y.hang()
	y.tries++
	most := triesAtStart
	if y.received > 0 {
		most = triesMidway
	}
	if err = rest(y.ctx, err, y.tries, most); err == nil || y.ctx.Err() != nil || len(y.sources) == 1 {
		return err
	}
	y.sources, y.tries = y.sources[1:], 0
	return nil
}

// hang closes the open body.
func (y *bypass) hang() {
	if y.body == nil {
		return
	}
	y.body.Close()
	y.hangUp(nil)
	y.body = nil
}

func (y *bypass) close() {
	y.hang()
	y.cancel()
}
