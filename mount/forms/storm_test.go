package forms

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Everything at once: whoever holds a form reads its true content, whatever is dropped beside.
func TestGetsReleasesAndDropsAtOnce(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		var blobs stock
		root := newRoot(t)
		layers := make([]*supply, 12)
		contents := make([]string, len(layers))
		for i := range layers {
			contents[i] = noise(byte(i), 20_000)
			if i%4 == 3 { // some need those below
				layers[i] = layerOf(t, hardLink("link", "file"))
				contents[i] = contents[i-1]
			} else {
				layers[i] = layerOf(t, regular("file", contents[i]))
			}
		}
		f := openForms(t, Options{Root: root, Kind: kind, Here: blobs.here, Workers: 2, Linger: time.Millisecond}, layers...)
		f.Rehold(nil)
		stop := make(chan struct{})
		var collectors, users sync.WaitGroup
		collectors.Go(func() { collect(f, &blobs, layers, stop) })
		collectors.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = f.Scrub(t.Context(), ScrubOptions{}) // forms go meanwhile
					f.Stats()
					time.Sleep(5 * time.Millisecond) // the processors are for the users
				}
			}
		})
		for u := range 200 {
			users.Go(func() {
				random := rand.New(rand.NewPCG(uint64(u), 1))
				for range 3 {
					if err := useOne(t, f, random, layers, contents, fmt.Sprint("user", u)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		users.Wait()
		close(stop)
		collectors.Wait()
		blobs.lose(layers...)
		eventually(t, "all is gone", func() bool { f.Idle(1 << 40); s := f.Stats(); return s.Bytes == 0 && s.Making+s.Queued == 0 })
		wantTidy(t, f)
		wantForms(t, f, 0)
		if s := f.Stats(); s.InUse != 0 || s.Rotten != 0 || s.Waiting != 0 || s.Failed[ReasonLayer]+s.Failed[ReasonDisk]+s.Failed[ReasonPanic] != 0 {
			t.Errorf("%+v", s)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.places.free != makingsPerWorker*2 || len(f.turns) != 0 || len(f.users) != 0 || len(f.going) != 0 {
			t.Errorf("left: %d places, %d turns taken, users %v, going %v", f.places.free, len(f.turns), f.users, f.going)
		}
	})
}

// useOne gets a form, holds it while it looks at it, and lets go; at times it leaves early.
func useOne(t *testing.T, f *Forms, random *rand.Rand, layers []*supply, contents []string, user string) error {
	i := random.IntN(len(layers))
	image := imageOf(layers[i])
	if i%4 == 3 {
		image = imageOf(layers[i-1], layers[i])
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if random.IntN(5) == 0 {
		time.AfterFunc(time.Duration(random.IntN(5))*time.Millisecond, cancel)
	}
	defer f.Release(user)
	form, err := f.Get(ctx, image, user)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	path, err := f.Lower(t.Context(), form.ID)
	if err != nil {
		return fmt.Errorf("form %d is held by %s: %w", form.ID, user, err)
	}
	name := "file"
	if i%4 == 3 {
		name = "link"
	}
	content, err := os.ReadFile(filepath.Join(path, name))
	if err == nil && string(content) != contents[i] {
		err = fmt.Errorf("form %d holds something else", form.ID)
	}
	return err
}

// collect takes blobs and gives them back, and drops forms as a store would.
func collect(f *Forms, blobs *stock, layers []*supply, stop chan struct{}) {
	random := rand.New(rand.NewPCG(9, 9))
	for {
		select {
		case <-stop:
			return
		default:
		}
		lost := blobs.lose(layers[random.IntN(len(layers))], layers[random.IntN(len(layers))])
		f.Freeable(setOf(lost...))
		f.Drop(lost)
		f.Idle(int64(random.IntN(100_000)))
		blobs.mu.Lock()
		clear(blobs.gone)
		blobs.mu.Unlock()
		time.Sleep(time.Millisecond) // the processors are for the users
	}
}
