//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const (
	// Rounds for each file system. There are more, up to the second number, while no collection was under way when the power was cut.
	collectionCuts, collectionCutsMost = 5, 20

	oldImages = 60 // that collections may take
	newImages = 24 // to pull and pin in one round
	// What is acknowledged and not pinned is kept for 5 s after its last use. A round that lasted longer says nothing of it.
	keptUnpinned = 4 * time.Second
)

// A collection takes rows first and files afterwards. Wherever the power fails meanwhile, no pin lacks anything, no row is without its file,
// and what was said to be done a moment ago is done.
func TestPowerCutWhileCollecting(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := newClearance(t, kind)
			for i := 0; i < collectionCuts || c.midway == 0 && i < collectionCutsMost; i++ {
				c.cutWhileCollecting(t, i%2 == 0)
				for _, loss := range c.losses(t) {
					t.Errorf("round %d: %s", i, loss)
				}
			}
			t.Logf("%d power cuts, %d rows evicted before them, %d files left behind by collections that were cut off", c.rounds, c.evicted, c.midway)
			if c.midway == 0 {
				t.Error("the power was never cut while a collection ran")
			}
		})
	}
}

// clearance is a rig whose store has to make room all the time.
type clearance struct {
	*rig
	watch   int // of the folder of blobs, an inotify descriptor
	evicted int // rows, in all rounds
	midway  int // files whose rows were gone when the power was cut
}

// newClearance fills a store with images that nobody uses any more.
func newClearance(t *testing.T, kind string) *clearance {
	t.Helper()
	c := &clearance{rig: newRig(t, kind)}
	c.daemon.start(t)
	c.parcels = c.supply.stockFamily(c.random, "old", oldImages)
	var pulls sync.WaitGroup
	for i := range inFlight {
		pulls.Go(func() {
			args := []string{"pull"}
			for _, p := range c.parcels[i*oldImages/inFlight : (i+1)*oldImages/inFlight] {
				args = append(args, p.reference())
			}
			if out, err := c.daemon.command(t, args...).CombinedOutput(); err != nil {
				t.Errorf("filling the store: %v\n%s", err, out)
			}
		})
	}
	pulls.Wait()
	return c
}

// cutWhileCollecting pulls and pins until the store has to make room, and cuts the power at a file that goes, or at any moment. It brings
// the disk and the daemon back, with nothing that has to go and the upstream gone.
func (c *clearance) cutWhileCollecting(t *testing.T, atAFile bool) {
	t.Helper()
	c.daemon.proc.stop()
	c.acked = pinned(c.acked)
	before := c.grownOld(t)
	c.parcels = c.supply.stockFamily(c.random, fmt.Sprintf("round%d", c.rounds), newImages)
	c.rounds++
	c.supply.setGone(false)
	defer c.watchBlobs(t)()
	// Room for a few images more, of which each is some 8 kB.
	c.startWithin(t, before.bytes>>10+32)
	began := time.Now()
	c.loadUntil(t, func() {
		await(t, c.ledger.done, 1+c.random.IntN(newImages/4))
		if atAFile {
			c.awaitRemoval(t)
		}
		// The moment is to be any, not only the first of a step.
		time.Sleep(time.Duration(c.random.IntN(3000)) * time.Microsecond)
	})
	if took := time.Since(began); took > keptUnpinned {
		t.Logf("a round took %v: what was not pinned may have been evicted", took)
		c.acked, c.ledger.acked = pinned(c.acked), pinned(c.ledger.acked)
	}
	c.disk.restore(t)
	c.compare(t, before)
	c.supply.setGone(true)
	c.daemon.through = nil
	c.daemon.start(t)
}

// pinned are the parcels of which more is promised than that they stay for a while.
func pinned(parcels []*parcel) (pins []*parcel) {
	for _, p := range parcels {
		if p.pin {
			pins = append(pins, p)
		}
	}
	return pins
}

// startWithin starts the daemon with a limit in KiB.
func (c *clearance) startWithin(t *testing.T, kib int64) {
	t.Helper()
	c.daemon.through = []string{debian("env"), fmt.Sprintf("IMAGECACHE_STORE_MAX_SIZE=%dKiB", kib)}
	c.daemon.start(t)
}

// loadUntil pulls and pins all parcels of this round, and collects, until moment returns; then it cuts the power.
func (c *clearance) loadUntil(t *testing.T, moment func()) {
	t.Helper()
	c.ledger = &ledger{done: make(chan struct{}, newImages)}
	queue := make(chan *parcel, newImages)
	for _, p := range c.parcels {
		queue <- p
	}
	close(queue)
	var load sync.WaitGroup
	defer load.Wait()
	defer c.ledger.end() // also when the moment never comes
	for range inFlight {
		load.Go(func() { c.pullAll(t, queue) })
	}
	load.Go(func() { // beside those that run by themselves
		for c.powered() {
			if out, err := c.daemon.command(t, "gc").CombinedOutput(); err != nil && c.powered() {
				t.Errorf("imagecache gc: %v\n%s", err, out)
			}
		}
	})
	moment()
	c.cut(t)
}

// end takes no more notes.
func (l *ledger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

// content is what the index and the folder of blobs hold while nobody has them open.
type content struct {
	rows  map[digest.Digest]int64 // bytes
	files map[digest.Digest]int64
	bytes int64 // of all rows
}

// grownOld reads the store, and makes everything in it look as if nobody had used it for an hour: what was used just now is never collected.
func (c *clearance) grownOld(t *testing.T) content {
	t.Helper()
	found := content{rows: map[digest.Digest]int64{}}
	c.eachRow(t, func(d digest.Digest, row map[string]any) {
		used, err := time.Parse(time.RFC3339Nano, row["used"].(string))
		if err != nil {
			t.Fatal(err)
		}
		row["used"] = used.Add(-time.Hour).Format(time.RFC3339Nano)
		size := int64(row["size"].(float64))
		found.rows[d] = size
		found.bytes += size
	})
	return found
}

// read reads the store as the power cut left it.
func (c *clearance) read(t *testing.T) content {
	t.Helper()
	found := content{rows: map[digest.Digest]int64{}, files: map[digest.Digest]int64{}}
	c.eachRow(t, func(d digest.Digest, row map[string]any) { found.rows[d] = int64(row["size"].(float64)) })
	c.daemon.eachBlob(t, func(d digest.Digest, path string) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		found.files[d] = info.Size()
	})
	return found
}

// eachRow calls change for each blob's row of layerstore.db, and writes back what it makes of it.
func (c *clearance) eachRow(t *testing.T, change func(digest.Digest, map[string]any)) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(c.daemon.root, "layerstore.db"), 0o600, &bolt.Options{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		rows := tx.Bucket([]byte("blobs"))
		return rows.ForEach(func(k, v []byte) error {
			var row map[string]any
			if err := json.Unmarshal(v, &row); err != nil {
				return err
			}
			change(digest.Digest(k), row)
			changed, err := json.Marshal(row)
			if err != nil {
				return err
			}
			return rows.Put(k, changed) // of a key that is there: the iteration may go on
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// compare wants every row to have its file, before any start puts that right, and counts what collections did.
func (c *clearance) compare(t *testing.T, before content) {
	t.Helper()
	after := c.read(t)
	for d, size := range after.rows {
		if got, ok := after.files[d]; !ok || got != size {
			t.Errorf("the row of %s says %d bytes, and its file has %d (there: %v)", d, size, got, ok)
		}
	}
	for d := range before.rows {
		if _, here := after.rows[d]; here {
			continue
		}
		c.evicted++
		if _, here := after.files[d]; here {
			c.midway++
		}
	}
}

// watchBlobs begins to note files that go from the folder of blobs.
func (c *clearance) watchBlobs(t *testing.T) (done func()) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, filepath.Join(c.daemon.root, "blobs", "sha256"), unix.IN_DELETE|unix.IN_MOVED_FROM)
	}
	if err != nil {
		t.Fatalf("watching blobs: %v", err)
	}
	c.watch = fd
	return func() { _ = unix.Close(fd) }
}

// awaitRemoval returns when a file has gone.
func (c *clearance) awaitRemoval(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		ready := []unix.PollFd{{Fd: int32(c.watch), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 100); n > 0 {
			return
		} else if err != nil && err != unix.EINTR {
			t.Fatalf("waiting for a removal: %v", err)
		}
	}
	t.Fatalf("no collection began in %v", patience)
}
