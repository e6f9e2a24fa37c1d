package registry

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func (c *cache) startUpload(by string) (Upload, error) {
	return c.StartUpload(c.t.Context(), atHome, by)
}

// sent is a piece of which no header says how long it is.
func sent(from int64, content string) Piece {
	return Piece{From: from, Length: -1, Body: strings.NewReader(content)}
}

// TestAnUploadIsTakenFromAClientThatFellSilent, and not from one that is slow.
func TestAnUploadIsTakenFromAClientThatFellSilent(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	u, err := c.startUpload("")
	if err != nil {
		t.Fatal(err)
	}
	body, client := io.Pipe()
	first := make(chan error, 1)
	go func() {
		_, err := c.AppendUpload(t.Context(), atHome, u.ID, Piece{From: -1, Length: -1, Body: body})
		first <- err
	}()
	if _, err := client.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		now, err := c.UploadStatus(t.Context(), atHome, u.ID)
		return err == nil && now.Offset == 3
	})
	c.clock.advance(goneAfter - time.Second)
	_, err = c.AppendUpload(t.Context(), atHome, u.ID, sent(3, "def"))
	if e := wantCode(t, err, CodeUploadInvalid); e.RetryAfter == 0 {
		t.Error("it is not told when to come again")
	}
	c.clock.advance(time.Second)
	eventually(t, func() bool { // the first may not wait for its client yet
		got, err := c.AppendUpload(t.Context(), atHome, u.ID, sent(3, "def"))
		return err == nil && got.Offset == 6
	})
	client.Write([]byte("late")) // to nobody, or to who is told so
	client.Close()
	wantCode(t, <-first, CodeUploadInvalid)
	if err := c.FinishUpload(t.Context(), atHome, u.ID, digest.FromString("abcdef"), sent(6, "")); err != nil {
		t.Fatal(err)
	}
	if got, err := c.store.ReadAll(digest.FromString("abcdef"), 6); err != nil || !bytes.Equal(got, []byte("abcdef")) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestWhatACallerLeavesBehindHasAnEnd: the oldest of its uploads go for the next
// ones, and of those that it is at none.
func TestWhatACallerLeavesBehindHasAnEnd(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	c.pushers.most = 3
	begin := func(by string) Upload {
		t.Helper()
		u, err := c.startUpload(by)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	oldest := begin("ann")
	c.clock.advance(time.Minute)
	old, other := begin("ann"), begin("bob")
	c.clock.advance(leftAfter - time.Second)
	begin("ann")
	c.clock.advance(2 * time.Second) // the oldest alone has waited long enough for two
	begin("ann")
	_, err := c.UploadStatus(t.Context(), atHome, oldest.ID)
	wantCode(t, err, CodeUploadUnknown)
	for _, kept := range []Upload{old, other} {
		if _, err := c.AppendUpload(t.Context(), atHome, kept.ID, sent(0, "going on")); err != nil {
			t.Errorf("an upload that somebody is at is gone: %v", err)
		}
	}
	_, err = c.startUpload("ann")
	wantCode(t, err, CodeTooMany)
	begin("bob")
	if err := c.CancelUpload(t.Context(), atHome, old.ID); err != nil {
		t.Fatal(err)
	}
	begin("ann")
}
