//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	powerCuts = 20 // rounds for each file system
	// sabotageMost is how many rounds a store that leaves out a sync may survive by luck.
	sabotageMost = 12
	// inFlight is how many pulls and pins run side by side.
	inFlight = 4
	// parcelsMost is how many images there are to pull in one round; the power is cut before half of them are.
	parcelsMost = 60
)

// Whatever imagecache has said to be done is there after a power cut at any moment: blobs, tags and pins.
func TestPowerCut(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, kind)
			r.start(t)
			acked := 0
			for i := range powerCuts {
				r.gentle = i%2 == 1
				acked += len(r.cutUnderLoad(t))
				for _, loss := range r.losses(t) {
					t.Errorf("round %d: %s", i, loss)
				}
			}
			t.Logf("%d power cuts, %d pulls and pins done before them", powerCuts, acked)
		})
	}
}

// The same test fails a store that leaves out one kind of sync: it sees what it is there to see.
func TestPowerCutSeesAMissingSync(t *testing.T) {
	for name, paths := range map[string]func(r *rig) []string{
		"of files":       func(r *rig) []string { return r.partials() },
		"of the folder":  func(r *rig) []string { return []string{filepath.Join(r.daemon.root, "blobs", "sha256")} },
		"of registry.db": func(r *rig) []string { return []string{filepath.Join(r.daemon.root, "registry.db")} },
	} {
		for _, kind := range []string{"ext4", "xfs"} {
			t.Run(name+" on "+kind, func(t *testing.T) {
				r := newRig(t, kind)
				r.gentle = true
				for i := range sabotageMost {
					r.sabotage = paths
					r.cutUnderLoad(t)
					if losses := r.losses(t); len(losses) > 0 {
						t.Logf("round %d lost %d things; the first: %s", i, len(losses), losses[0])
						return
					}
				}
				t.Errorf("%d power cuts, and nothing was lost", sabotageMost)
			})
		}
	}
}

// The rows of layerstore.db can be learned again from the blobs: a store that never syncs it loses nothing by a power cut.
func TestPowerCutWithoutSyncOfTheIndexLosesNothing(t *testing.T) {
	r := newRig(t, "ext4")
	for i := range 5 {
		r.sabotage = func(r *rig) []string { return []string{filepath.Join(r.daemon.root, "layerstore.db")} }
		r.cutUnderLoad(t)
		for _, loss := range r.losses(t) {
			t.Errorf("round %d: %s", i, loss)
		}
	}
}

// rig is imagecache with its store on a disk of its own, and what it has said to be done.
type rig struct {
	disk     *disk
	daemon   *daemon
	supply   *supply
	random   *rand.Rand
	rounds   int
	parcels  []*parcel // of this round
	ledger   *ledger   // of this round
	acked    []*parcel // of all rounds
	sabotage func(*rig) []string
	gentle   bool // one pull after the other, no pins, and the power is cut at once: little else is synced meanwhile
}

func newRig(t *testing.T, kind string) *rig {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := &rig{supply: startSupply(t), random: rand.New(rand.NewPCG(seed, 0))}
	r.daemon = newDaemon(t, r.supply.url)
	r.disk = newDisk(t, kind, r.daemon.root)
	t.Cleanup(func() {
		if r.daemon.proc != nil {
			r.daemon.proc.kill() // before the disk goes
		}
	})
	return r
}

// start starts the daemon, without the syncs of some paths when there is sabotage.
func (r *rig) start(t *testing.T) {
	t.Helper()
	r.daemon.through = nil
	if r.sabotage != nil {
		r.daemon.through = withoutSync(r.sabotage(r))
	}
	r.daemon.start(t)
}

// withoutSync is the beginning of a command line that runs a program as usual, but for syncs of the given paths: they say that all is well
// and do nothing. With -D the program is our own child and strace is its, so that killing it kills it.
func withoutSync(paths []string) []string {
	args := []string{debian("strace"), "-D", "-f", "--seccomp-bpf", "-qq", "-o", os.DevNull,
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0"}
	for _, path := range paths {
		args = append(args, "-P", path)
	}
	return args
}

// partials are the paths to which the blobs of this round are written before they are sealed.
func (r *rig) partials() (paths []string) {
	for _, p := range r.parcels {
		for _, b := range p.blobs {
			paths = append(paths, filepath.Join(r.daemon.root, "ingest", b.Algorithm().String()+"-"+b.Encoded()+".part"))
		}
	}
	return paths
}

// ledger is what was done before the power was cut.
type ledger struct {
	done chan struct{} // a signal for each entry

	mu    sync.Mutex // guards what follows
	over  bool
	acked []*parcel
}

// note enters a parcel of which imagecache said that all is done, unless the power is cut already. It reports whether there is still power.
func (l *ledger) note(p *parcel) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.acked = append(l.acked, p)
		l.done <- struct{}{}
	}
	return !l.over
}

// cutUnderLoad pulls and pins until the power is cut, at a random moment, kills the daemon, and brings the disk and the daemon back, with
// the upstream gone. It returns what was done before.
func (r *rig) cutUnderLoad(t *testing.T) []*parcel {
	t.Helper()
	r.rounds++
	r.parcels = r.supply.stock(r.random, fmt.Sprintf("round%d", r.rounds), parcelsMost)
	for _, p := range r.parcels {
		p.pin = p.pin && !r.gentle
	}
	r.supply.setGone(false)
	if r.sabotage != nil || r.daemon.proc == nil {
		if r.daemon.proc != nil {
			r.daemon.proc.stop()
		}
		r.start(t)
	}
	r.ledger = &ledger{done: make(chan struct{}, parcelsMost)}
	var load sync.WaitGroup
	queue := make(chan *parcel, parcelsMost)
	for _, p := range r.parcels {
		queue <- p
	}
	close(queue)
	workers, after := inFlight, r.random.IntN(30_000)
	if r.gentle {
		workers, after = 1, 0
	}
	for range workers {
		load.Go(func() { r.pullAll(t, queue) })
	}
	await(t, r.ledger.done, 1+r.random.IntN(parcelsMost/2))
	// The moment is to be any, not only one right after something was done.
	time.Sleep(time.Duration(after) * time.Microsecond)
	r.cut(t)
	load.Wait()
	r.disk.restore(t)
	r.supply.setGone(true)
	r.sabotage = nil
	r.start(t)
	return r.ledger.acked
}

// cut cuts the power and kills the daemon. What is not in the ledger before is not acknowledged.
func (r *rig) cut(t *testing.T) {
	t.Helper()
	r.ledger.mu.Lock()
	err := r.disk.cut()
	r.ledger.over = true
	r.ledger.mu.Unlock()
	if err != nil {
		t.Fatalf("cutting the power: %v", err)
	}
	r.daemon.proc.kill()
	r.acked = append(r.acked, r.ledger.acked...)
}

func (r *rig) pullAll(t *testing.T, queue <-chan *parcel) {
	for p := range queue {
		verb := "pull"
		if p.pin {
			verb = "pin"
		}
		err := r.daemon.command(t, verb, p.reference()).Run()
		if err == nil && !r.ledger.note(p) {
			return
		}
		if err != nil && r.powered() {
			t.Errorf("imagecache %s %s: %v", verb, p.reference(), err)
		}
	}
}

func (r *rig) powered() bool {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	return !r.ledger.over
}

// losses tells what is missing or wrong of all that was ever acknowledged, and what else is wrong.
func (r *rig) losses(t *testing.T) (losses []string) {
	t.Helper()
	stored, wrong := r.stored(t)
	losses = append(losses, wrong...)
	images := listed(t, r.daemon, "images")
	pins := listed(t, r.daemon, "pins")
	for _, p := range r.acked {
		if image := images[p.reference()]; image.Digest != p.digest || !image.Complete {
			losses = append(losses, fmt.Sprintf("image %s at %s stands as %+v", p.reference(), p.digest, image))
		}
		if pin := pins[p.reference()]; p.pin && (pin.Digest != p.digest || !pin.Complete) {
			losses = append(losses, fmt.Sprintf("pin of %s at %s stands as %+v", p.reference(), p.digest, pin))
		}
		for _, b := range append(p.blobs, p.digest) {
			if !stored[b] {
				losses = append(losses, fmt.Sprintf("blob %s of %s is gone", b, p.reference()))
			}
		}
	}
	return append(losses, r.unanswered(t)...)
}

// unanswered asks for the tags of this round, of which upstream knows nothing now.
func (r *rig) unanswered(t *testing.T) (losses []string) {
	t.Helper()
	c := newClient(t, r.daemon.addr)
	for _, p := range r.ledger.acked {
		if got, err := c.manifest(t.Context(), p.repository, "1"); err != nil || got.digest != p.digest {
			losses = append(losses, fmt.Sprintf("tag %s answers %+v, %v", p.reference(), got, err))
		}
	}
	return losses
}

// stored are the blobs in the store, each hashed.
func (r *rig) stored(t *testing.T) (stored map[digest.Digest]bool, wrong []string) {
	t.Helper()
	stored = map[digest.Digest]bool{}
	r.daemon.eachBlob(t, func(hash digest.Digest, path string) {
		content, err := os.ReadFile(path)
		if err != nil || hash.Algorithm().FromBytes(content) != hash {
			wrong = append(wrong, fmt.Sprintf("%s holds other bytes; %v", path, err))
			return
		}
		stored[hash] = true
	})
	return stored, wrong
}

// imageLine is what images and pins tell of one reference.
type imageLine struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Complete  bool          `json:"complete"`
}

// listed runs a command that lists something by reference.
func listed(t *testing.T, d *daemon, command string) map[string]imageLine {
	t.Helper()
	var answer map[string][]imageLine
	printed := d.mustRun(t, command, "-o", "json")
	if err := json.NewDecoder(strings.NewReader(printed)).Decode(&answer); err != nil {
		t.Fatalf("imagecache %s printed %s: %v", command, printed, err)
	}
	all := map[string]imageLine{}
	for _, line := range answer[command] {
		all[line.Reference] = line
	}
	return all
}
