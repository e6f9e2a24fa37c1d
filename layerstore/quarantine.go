package layerstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const (
	quarantineName = "quarantine"
	// Rotten files are kept for whoever wants to know what happened to them:
	// long enough to be looked at, few enough not to fill the disk, and in
	// this part of Options.MaxSize, or of the file system where that is not set.
	quarantineMost = 16
	quarantineAge  = 7 * 24 * time.Hour
	quarantinePart = 1.0 / 20
)

// Quarantine looks at a sealed blob and takes it away when it does not hash to
// its digest any more, or cannot be read: its file is renamed into quarantine/,
// its row goes, its edges stay, so that what needs it shows as incomplete. A
// blob that is right stays, and counts as proven. Open readers read on. Errors:
// [ErrClosed], those of the file system that are not the blob's.
func (s *Store) Quarantine(d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.flying.Done()
	file, err := os.Open(s.layout.blob(d))
	if err != nil {
		if err = s.unopened(d, err); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return storageError("open blob", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return storageError("open blob", err)
	}
	err = s.examine(s.ctx, d, info, func(ctx context.Context) error { return hashFile(ctx, file, d, info.Size()) })
	var rot *RotError
	if errors.As(err, &rot) {
		return nil
	}
	return err
}

// examine judges a sealed blob by what its open file is and what read, which
// hashes it, says. It is *[RotError] when the blob was taken away.
func (s *Store) examine(ctx context.Context, d digest.Digest, info os.FileInfo, read func(context.Context) error) error {
	k, indexed := s.proofs.of(d)
	var err error
	switch {
	case !info.Mode().IsRegular():
		err = errNoFile
	case indexed && k.size != info.Size():
		err = wrongSize(info.Size(), k.size)
	default:
		if err = read(ctx); err == nil {
			s.proofs.renew(d, info.Size())
			return nil
		}
		if ctx.Err() != nil || !damaged(err) {
			return err
		}
	}
	s.condemn(d, info, err)
	return &RotError{Digest: d, Err: err}
}

// condemn takes a rotten blob away: the file that info describes, or, with a
// nil info, the row of a blob whose file is gone. A file that has taken its
// place meanwhile stays. Whatever fails on the way, the blob is not given again.
func (s *Store) condemn(d digest.Digest, info os.FileInfo, why error) {
	closed := s.commit.apart(func() { s.takeAway(d, info, why) })
	if closed != nil {
		s.log.Warn("blob is damaged and stays, for the store is closing", "digest", d, "error", why)
		return
	}
	s.pruneQuarantine()
}

// takeAway does what condemn says, apart from sealing.
func (s *Store) takeAway(d digest.Digest, info os.FileInfo, why error) {
	path := s.layout.blob(d)
	gone, same := stillThere(path, info)
	if !gone && !same {
		return
	}
	s.proofs.forget(d)
	lost, err := s.index.lose([]digest.Digest{d}, s.now(), why)
	if err != nil {
		s.log.Error("loss of a blob not recorded", "digest", d, "error", err)
	}
	for _, loss := range lost {
		s.count(-1, -loss.Size)
		// Last of all: who is told fetches it anew, and must not find the old one.
		defer s.losses.add(loss)
	}
	if gone {
		if len(lost) > 0 {
			s.log.Error("blob is gone from the disk", "digest", d)
		}
		return
	}
	s.suspects.add(d)
	s.counts.quarantined.Add(1)
	kept, err := s.moveAway(d)
	if err != nil {
		s.proofs.hide(d)
		s.log.Error("blob is damaged, is not served, and could not be taken away", "digest", d, "damage", why, "error", err)
		return
	}
	s.log.Error("blob is damaged and was taken away", "digest", d, "damage", why, "kept", kept)
}

// stillThere tells whether nothing has the name, and whether what has it is the
// file that info describes, itself or at the end of a link.
func stillThere(path string, info os.FileInfo) (gone, same bool) {
	now, err := os.Lstat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist), false
	}
	if info == nil {
		return false, false
	}
	if os.SameFile(now, info) {
		return false, true
	}
	now, err = os.Stat(path)
	return false, err == nil && os.SameFile(now, info)
}

// moveAway renames a blob into quarantine/. Which name a power cut leaves does
// not matter: a file under blobs/ without a row is hashed before it is taken in.
func (s *Store) moveAway(d digest.Digest) (string, error) {
	if err := makeFolders(s.layout.quarantine()); err != nil {
		return "", err
	}
	name := d.Algorithm().String() + "-" + d.Encoded() + "-" + strconv.FormatInt(s.now().Unix(), 10)
	to := filepath.Join(s.layout.quarantine(), name)
	if err := os.RemoveAll(to); err != nil { // twice within a second
		return "", err
	}
	return to, os.Rename(s.layout.blob(d), to)
}

func (l layout) quarantine() string { return filepath.Join(l.root, quarantineName) }

// quarantined lists what is in quarantine, the oldest first.
func (s *Store) quarantined() (found []leftover) {
	files, err := os.ReadDir(s.layout.quarantine())
	if err != nil {
		return nil // there is none
	}
	for _, f := range files {
		path := filepath.Join(s.layout.quarantine(), f.Name())
		bytes := treeBytes(path)
		found = append(found, leftover{
			Leftover{Kind: LeftQuarantined, Name: f.Name(), Bytes: bytes, Since: quarantinedAt(f.Name())},
			func() (int64, error) { return bytes, os.RemoveAll(path) },
		})
	}
	slices.SortFunc(found, func(a, b leftover) int { return a.Since.Compare(b.Since) })
	return found
}

// treeBytes is what a file, or a folder that somebody put in place of a blob,
// takes on the disk.
func treeBytes(path string) (bytes int64) {
	_ = filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var info unix.Stat_t
		if err == nil && unix.Lstat(path, &info) == nil {
			bytes += diskBytes(&info)
		}
		return nil // what cannot be read is not counted
	})
	return bytes
}

// pruneQuarantine keeps the newest files, none longer than quarantineAge, and
// not more of them than the share of the disk that they have.
func (s *Store) pruneQuarantine() {
	defer s.unheld.stale.Store(true)
	var kept, bytes int64
	most := s.quarantineBytes()
	for _, l := range slices.Backward(s.quarantined()) {
		if kept++; kept <= quarantineMost && !l.tooOld(s.now()) && bytes+l.Bytes <= most {
			bytes += l.Bytes
			continue
		}
		if _, err := l.drop(); err != nil {
			s.log.Warn("file in quarantine not removed", "name", l.Name, "error", err)
		}
	}
}

// quarantineBytes is how much of the disk quarantine may take.
func (s *Store) quarantineBytes() int64 {
	if s.limits.size > 0 {
		return int64(quarantinePart * float64(s.limits.size))
	}
	capacity, _, err := s.disk()
	if err != nil {
		return 0
	}
	return int64(quarantinePart * float64(capacity))
}

// quarantinedAt reads the time at the end of a name.
func quarantinedAt(name string) time.Time {
	seconds, err := strconv.ParseInt(name[strings.LastIndexByte(name, '-')+1:], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// lose drops the rows of blobs, keeps their edges, and records the losses of
// those that had rows.
func (x *index) lose(digests []digest.Digest, at time.Time, why error) (lost []Loss, err error) {
	err = x.db.Update(func(tx *bolt.Tx) error {
		lost = nil
		blobs := tx.Bucket(bucketBlobs)
		for _, d := range digests {
			value := blobs.Get([]byte(d))
			if value == nil {
				continue
			}
			var r row
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("row of %s: %w", d, err)
			}
			loss := Loss{Digest: d, Size: r.Size, MediaType: r.MediaType, At: at, Why: why.Error()}
			if err := errors.Join(putLoss(tx, loss), blobs.Delete([]byte(d))); err != nil {
				return err
			}
			lost = append(lost, loss)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lost, nil
}

// loseMissing records at Open which blobs have rows and no whole file. It
// comes before the losses are loaded.
func (s *Store) loseMissing(digests []digest.Digest) error {
	if len(digests) == 0 {
		return nil
	}
	s.log.Error("blobs are gone from the disk, or cut short", "count", len(digests))
	_, err := s.index.lose(digests, s.now(), errNotWhole)
	return err
}
