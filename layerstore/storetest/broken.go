package storetest

import (
	"errors"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
)

var brokenTests = []test{
	{"a break midway goes on from where it broke", breakMidway},
	{"a body that ends cleanly too early goes on from there", shortBody},
	{"a silent body is given up and asked for again", stall},
	{"many breaks, each after some bytes, do not add up", manyBreaks},
	{"a source that ignores ranges serves as well", ignoresRanges},
	{"a break of a blob of unknown size goes on to the end", breakUnknownSize},
	{"a refusal is returned at once", refusal},
	{"a passing error is tried again", passingError},
	{"a source that keeps failing is given up", keepsFailing},
	{"a source that asks for a long pause is not waited for", longPause},
	{"what came before a failure is gone on with by the next fetch", nextFetchGoesOn},
	{"a joiner asks its own source when the first one was refused", joinerOfRefused},
}

var errPassing = errors.New("connection reset")

func breakMidway(h *house) {
	content, desc := blob(3 * mib)
	src := Answers(content, Answer{Break: mib + 5})
	b := h.fetch(desc, src)
	h.wantWhole(b, content)
	h.wantRequests(src, Request{0, -1}, Request{mib + 5, 3 * mib})
	if src.Sent() != desc.Size {
		h.Errorf("the source sent %d bytes for a blob of %d", src.Sent(), desc.Size)
	}
}

func shortBody(h *house) {
	content, desc := blob(3 * mib)
	src := Answers(content, Answer{Short: 2 * mib})
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1}, Request{2 * mib, 3 * mib})
}

func stall(h *house) {
	content, desc := blob(3 * mib)
	src := Answers(content, Answer{HoldAt: mib})
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1}, Request{mib, 3 * mib})
}

func manyBreaks(h *house) {
	content, desc := blob(64 << 10)
	src := &Source{Content: content, Script: func(_ int, r Request) Answer { return Answer{Break: r.Offset + 1<<10} }}
	h.wantWhole(h.fetch(desc, src), content)
	if n := len(src.Requests()); n != 64 {
		h.Errorf("%d requests, want 64", n)
	}
}

func ignoresRanges(h *house) {
	content, desc := blob(3 * mib)
	src := Answers(content, Answer{Break: mib}, Answer{Whole: true, Break: 2 * mib}, Answer{Whole: true})
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1}, Request{mib, 3 * mib}, Request{2 * mib, 3 * mib})
}

func breakUnknownSize(h *house) {
	content, desc := blob(2 * mib)
	desc.Size = -1
	src := Answers(content, Answer{NoSize: true, Break: mib}, Answer{NoSize: true})
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1}, Request{mib, -1})
}

func refusal(h *house) {
	content, desc := blob(mib)
	src := Answers(content, Answer{Err: Refusal{"404"}})
	if _, err := h.store.Fetch(h.Context(), desc, src); !errors.Is(err, Refusal{"404"}) {
		h.Errorf("error %v", err)
	}
	h.wantRequests(src, Request{0, -1})
	h.wantAbsent(desc.Digest)
	h.wantWhole(h.fetch(desc, src), content)
}

func passingError(h *house) {
	content, desc := blob(mib)
	src := Answers(content, Answer{Err: errPassing}, Answer{Err: errPassing})
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1}, Request{0, -1}, Request{0, -1})
}

func keepsFailing(h *house) {
	_, desc := blob(mib)
	src := Always(nil, Answer{Err: errPassing})
	if _, err := h.store.Fetch(h.Context(), desc, src); !errors.Is(err, errPassing) {
		h.Errorf("error %v", err)
	}
	if n := len(src.Requests()); n < 2 || n > 20 {
		h.Errorf("the source was asked %d times", n)
	}
	h.wantAbsent(desc.Digest)
}

// limited is what a source says that wants to be left alone.
type limited struct{ time.Duration }

func (limited) Error() string         { return "429" }
func (l limited) Wait() time.Duration { return l.Duration }

func longPause(h *house) {
	content, desc := blob(mib)
	src := Answers(content, Answer{Err: limited{time.Hour}})
	if _, err := h.store.Fetch(h.Context(), desc, src); !errors.Is(err, limited{time.Hour}) {
		h.Errorf("error %v", err)
	}
	h.wantRequests(src, Request{0, -1})
	src = Answers(content, Answer{Err: limited{time.Second}})
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1}, Request{0, -1})
}

func nextFetchGoesOn(h *house) {
	content, desc := blob(3 * mib)
	src := Answers(content, Answer{Break: 2 * mib}, Answer{Err: Refusal{"token expired"}})
	if err := h.wantRefused(desc, src); !errors.Is(err, Refusal{"token expired"}) {
		h.Errorf("error %v", err)
	}
	h.wantAbsent(desc.Digest)
	h.wantWhole(h.fetch(desc, src), content)
	h.wantRequests(src, Request{0, -1}, Request{2 * mib, 3 * mib}, Request{2 * mib, 3 * mib})
	if src.Sent() != desc.Size {
		h.Errorf("the source sent %d bytes for a blob of %d", src.Sent(), desc.Size)
	}
}

func joinerOfRefused(h *house) {
	content, desc := blob(mib)
	asked, refuse := make(chan struct{}), make(chan struct{})
	poor := &Source{Script: func(int, Request) Answer {
		close(asked)
		<-refuse
		return Answer{Err: Refusal{"403"}}
	}}
	first := make(chan error, 1)
	go func() {
		_, err := h.store.Fetch(h.Context(), desc, poor)
		first <- err
	}()
	<-asked
	joined := make(chan *layerstore.Blob, 1)
	go func() {
		b, err := h.store.Fetch(h.Context(), desc, NewSource(content))
		if err != nil {
			h.Error(err)
		}
		joined <- b
	}()
	synctest.Wait()
	close(refuse)
	if err := <-first; !errors.Is(err, Refusal{"403"}) {
		h.Errorf("the first got %v", err)
	}
	b := <-joined
	defer b.Close()
	h.wantWhole(b, content)
}
