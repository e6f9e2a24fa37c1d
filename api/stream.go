package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/imagecache/imagecache/registry"
)

// progressEvery is the least time between two progress lines: as often as a
// terminal is worth redrawing.
const progressEvery = 100 * time.Millisecond

// repeatEvery is how long nothing is told while there is nothing new: proxies
// give up a connection that is silent, most of them after a minute.
const repeatEvery = 15 * time.Second

// work is what a stream waits for: a pin or a pull.
type work[T any] func(ctx context.Context, ref registry.Reference, platforms []string, progress func(registry.Progress)) (T, error)

// streamWork does what the request body wishes, by the work that choose
// chooses for it, and tells of it as it goes:
// application/x-ndjson, one {"progress":…} a line, and at last what last makes
// of the result, or {"error":…}. An error before the first line is an ordinary
// error answer. A client that leaves cancels the waiting by the request's
// context.
func streamWork[T any](w *record, r *http.Request, choose func(wish) (work[T], error), last func(T) any) error {
	asked, ref, err := readWish(w, r)
	if err != nil {
		return err
	}
	do, err := choose(asked)
	if err != nil {
		return err
	}
	w.concerns(ref.String())
	return stream(w, func(progress func(registry.Progress)) (T, error) {
		return do(r.Context(), ref, asked.Platforms, progress)
	}, last)
}

// stream tells of any work that has progress, as [streamWork] does of its own.
func stream[T any](w *record, do func(progress func(registry.Progress)) (T, error), last func(T) any) error {
	var news latest
	news.wake = make(chan struct{}, 1)
	done := make(chan struct{})
	var result T
	var err error
	go func() {
		defer close(done)
		result, err = do(news.set)
	}()
	out := &lines{record: w}
	out.follow(&news, done)
	if err != nil {
		return out.fail(err)
	}
	return out.write(last(result))
}

// latest holds the newest progress only: a client that reads slowly sees
// fewer lines, and never slows the work down.
type latest struct {
	wake chan struct{} // holds a token while there is news

	mu       sync.Mutex // guards progress
	progress registry.Progress
}

func (l *latest) set(p registry.Progress) {
	l.mu.Lock()
	l.progress = p
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *latest) get() registry.Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress
}

// lines writes newline-delimited JSON, each line flushed.
type lines struct {
	*record
	gone bool // the client does not read any more
}

// follow writes progress until the work is done, the last news included. What
// was told is told again now and then, so that the connection lives.
func (l *lines) follow(news *latest, done <-chan struct{}) {
	pause := time.NewTicker(progressEvery)
	defer pause.Stop()
	silence := time.NewTicker(repeatEvery)
	defer silence.Stop()
	for finished := false; !finished; {
		select {
		case <-news.wake:
			l.progress(news)
			silence.Reset(repeatEvery)
		case <-silence.C:
			if l.status != 0 { // else an error may still be an ordinary answer
				l.progress(news)
			}
		case <-done:
			finished = true
		}
		select {
		case <-pause.C:
		case <-done:
			finished = true
		}
	}
	select {
	case <-news.wake:
		l.progress(news)
	default:
	}
}

func (l *lines) progress(news *latest) {
	l.write(struct {
		Progress registry.Progress `json:"progress"`
	}{news.get()})
}

// write writes one line. A client that has left is noted and told no more.
func (l *lines) write(v any) error {
	if l.gone {
		return nil
	}
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if l.status == 0 {
		l.Header().Set("Content-Type", "application/x-ndjson")
		l.Header().Set("X-Content-Type-Options", "nosniff")
	}
	l.renew()
	_, err = l.Write(append(line, '\n'))
	if err == nil {
		err = http.NewResponseController(l.record).Flush()
	}
	l.gone = err != nil
	return l.sent(err)
}

// fail ends the stream with an error line, or answers with the error when no
// line was written yet.
func (l *lines) fail(err error) error {
	if l.status == 0 {
		return err
	}
	f := classify(err)
	f.explain(err)
	l.refuse(f, err)
	return l.write(struct {
		Error errorDetail `json:"error"`
	}{f.body.Errors[0]})
}
