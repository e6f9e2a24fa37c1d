package mount

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// discard takes a folder of layers away, at once, and has it deleted later. What
// fails here is found again as a folder that no row names.
func (s *Snapshotter) discard(name string) {
	if err := s.setAside(filepath.Join(s.folders.layers(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the folder of a snapshot that went stays until the next start", "folder", name, "error", err)
	}
	s.sweeper.kick()
}

// setAside moves a folder to where it is deleted, by a new name: names come again.
func (s *Snapshotter) setAside(path string) error {
	to := filepath.Base(path) + "-" + strconv.FormatUint(rand.Uint64(), 36)
	return os.Rename(path, filepath.Join(s.folders.removed(), to))
}

// Cleanup deletes what snapshots that went have left, and returns when their
// space is free.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	return errors.Join(s.discardOrphans(ctx), s.empty(ctx))
}

// discardOrphans takes the folders away that no row names. The order decides:
// what is listed and does not grow any more has its row, or lost it.
func (s *Snapshotter) discardOrphans(ctx context.Context) error {
	candidates, err := s.snapshotFolders()
	if err != nil {
		return err
	}
	candidates = slices.DeleteFunc(candidates, s.growing.has)
	rows, err := s.find(ctx)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, r := range rows {
		named[r.folder()] = true
	}
	for _, name := range candidates {
		if named[name] {
			continue
		}
		if err := s.setAside(filepath.Join(s.folders.layers(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// empty deletes what was set aside. It ends between two folders when ctx does.
func (s *Snapshotter) empty(ctx context.Context) error {
	dirs, err := os.ReadDir(s.folders.removed())
	for _, dir := range dirs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.folders.removed(), dir.Name())))
	}
	return err
}

// sweep is what the background does when it starts, and whenever something was discarded.
func (s *Snapshotter) sweep(ctx context.Context, first bool) {
	var err error
	if first {
		s.tellLost(ctx)
		err = errors.Join(s.discardOrphans(ctx), s.discardHalves())
	}
	if err = errors.Join(err, s.empty(ctx)); err != nil && ctx.Err() == nil {
		s.log.Warn("what snapshots left could not be deleted; it is tried again", "error", err)
	}
}

// tellLost says which snapshots the disk lost, before somebody runs into it.
func (s *Snapshotter) tellLost(ctx context.Context) {
	rows, err := s.find(ctx)
	if err != nil {
		s.log.Warn("snapshots could not be looked at", "error", err)
		return
	}
	for _, r := range rows {
		if r.folder() == "" || !missing(s.folders.upper(r.folder())) || ctx.Err() != nil {
			continue
		}
		if again := chainOf(r); again != "" && r.Kind == snapshots.KindCommitted {
			s.log.Warn("the disk lost a layer: it is made again when it is wanted", "snapshot", r.Name, "chain", again)
			continue
		}
		s.log.Error("the disk lost what a snapshot held: remove what was made of it", "snapshot", r.Name)
	}
}

// holdForms tells which forms are in use by rows and by people.
func (s *Snapshotter) holdForms() error {
	rows, err := s.find(context.Background())
	if err != nil {
		return err
	}
	users := s.peopleForms()
	for _, r := range rows {
		if id, isForm := r.form(); isForm {
			users[r.Name] = append(users[r.Name], id)
		}
	}
	users[rescuedUser] = s.rescuedForms()
	if gone := s.forms.Rehold(users); len(gone) > 0 {
		s.log.Warn("the disk lost layers that are in use: each is made again when it is wanted", "layers", len(gone))
	}
	return nil
}

// sweeper runs in the background, one round at a time.
type sweeper struct {
	wake   chan struct{} // holds one: a round that is asked for twice is one round
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// startSweeper runs a first round at once, and one for each kick.
func startSweeper(round func(ctx context.Context, first bool)) *sweeper {
	ctx, cancel := context.WithCancel(context.Background())
	w := &sweeper{wake: make(chan struct{}, 1), cancel: cancel}
	w.done.Go(func() {
		round(ctx, true)
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
				round(ctx, false)
			}
		}
	})
	return w
}

func (w *sweeper) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// stop ends the background, after the folder that is being deleted.
func (w *sweeper) stop() {
	w.cancel()
	w.done.Wait()
}
