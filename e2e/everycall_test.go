//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// pointsMost is how many calls of one piece of work are tried: of more, only every second, third and so on.
const pointsMost = 150

// work is something that imagecache is killed in.
type work struct {
	name string
	// prepare makes the store that the work begins with. nil: there is none.
	prepare func(t *testing.T, d *daemon, p *parcel)
	// command is what imagecache is asked to do. nil: the work is to start.
	command func(p *parcel) []string
	// want is what must be there after the command has said that it is done; when always is set, in any case.
	want   string
	always bool
	// afterwards is what can be done then, whatever the kill left.
	afterwards string
	// collects: at its start the daemon evicts what no longer fits; the work is done when that is gone.
	collects bool
}

// another is an image that nobody pinned.
const another = "team/another"

var works = []work{
	{name: "first start", afterwards: "pin"},
	{name: "pull", prepare: started, command: asked("pull"), want: "image", afterwards: "pull"},
	{name: "pin", prepare: started, command: asked("pin"), want: "pin", afterwards: "pin"},
	{name: "unpin", prepare: done("pin"), command: asked("unpin"), want: "image", always: true, afterwards: "pin"},
	{name: "rm", prepare: done("pull"), command: asked("rm"), want: "nothing", afterwards: "pull"},
	{name: "collection", prepare: overfull, want: "pin", always: true, afterwards: "pin", collects: true},
	{name: "rebuild", prepare: ruined, want: "pin", always: true, afterwards: "pin"},
}

func asked(verb string) func(*parcel) []string {
	return func(p *parcel) []string { return []string{verb, p.reference()} }
}

// started prepares an empty store.
func started(t *testing.T, d *daemon, _ *parcel) {
	d.start(t)
	d.proc.stop()
}

// done prepares a store with an image.
func done(verb string) func(*testing.T, *daemon, *parcel) {
	return func(t *testing.T, d *daemon, p *parcel) {
		d.start(t)
		d.mustRun(t, verb, p.reference())
		d.proc.stop()
	}
}

// overfull prepares a store that holds a pinned image and another, which take more than it may.
func overfull(t *testing.T, d *daemon, p *parcel) {
	d.start(t)
	d.mustRun(t, "pull", upstreamName+"/"+another+":1")
	d.mustRun(t, "pin", p.reference())
	// What was used in the last five seconds is not evicted.
	time.Sleep(5500 * time.Millisecond)
	d.proc.stop()
	settings, err := os.OpenFile(d.config(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer settings.Close()
	if _, err := settings.WriteString("\n[store]\nmax_size = \"4MiB\"\n"); err != nil {
		t.Fatal(err)
	}
}

// ruined prepares a store whose databases are damaged.
func ruined(t *testing.T, d *daemon, p *parcel) {
	done("pin")(t, d, p)
	for _, name := range []string{"layerstore.db", "registry.db"} {
		if err := os.WriteFile(filepath.Join(d.root, name), []byte("ruined"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// imagecache is killed before each call that changes its store. After each the store opens without upstream, what was said to be done is
// there, everything that is there is true, and nothing is left over.
func TestKillNineAtEveryCall(t *testing.T) {
	for _, w := range works {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			k := newKilling(t, w)
			calls, killed := k.at(t, 1<<40)
			if killed || calls == 0 {
				t.Fatalf("%d calls, killed %v", calls, killed)
			}
			stride, points := 1+(calls-1)/pointsMost, 0
			for n := int64(1); n <= calls && !t.Failed(); n += stride {
				if _, killed := k.at(t, n); killed {
					points++
				}
			}
			t.Logf("%d calls, killed before %d of them", calls, points)
			if points == 0 {
				t.Error("it was never killed")
			}
		})
	}
}

// killing is one work's store before it begins, and what it works on.
type killing struct {
	work   work
	supply *supply
	parcel *parcel
	daemon *daemon
	before string // a copy of the root
}

func newKilling(t *testing.T, w work) *killing {
	t.Helper()
	k := &killing{work: w, supply: startSupply(t)}
	// Large enough for a journal, small enough to be quick.
	k.parcel = k.supply.stockOne(rand.New(rand.NewPCG(1, 2)), "team/app", []int{40 << 10, 3 << 20})
	k.supply.stockOne(rand.New(rand.NewPCG(3, 4)), another, []int{50 << 10, 2 << 20})
	k.daemon = newDaemon(t, k.supply.url)
	k.before = filepath.Join(k.daemon.dir, "before")
	if w.prepare != nil {
		w.prepare(t, k.daemon, k.parcel)
		if err := os.Rename(k.daemon.root, k.before); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// at does the work and kills before the nth call; calls is how many there were. Then it looks at what is left.
func (k *killing) at(t *testing.T, n int64) (calls int64, killed bool) {
	t.Helper()
	if err := os.RemoveAll(k.daemon.root); err != nil {
		t.Fatal(err)
	}
	if k.work.prepare != nil {
		if err := os.CopyFS(k.daemon.root, os.DirFS(k.before)); err != nil {
			t.Fatal(err)
		}
	}
	k.supply.setGone(false)
	p, acked := k.do(t, n)
	p.end()
	k.supply.setGone(true)
	k.look(t, fmt.Sprintf("killed before call %d", n), acked)
	if t.Failed() {
		content, _ := os.ReadFile(p.log)
		t.Logf("the killed one said:\n%.4000s", content)
	}
	return p.count.Load(), p.killed.Load()
}

// do starts the daemon and asks it for the work.
func (k *killing) do(t *testing.T, n int64) (p *traced, acked bool) {
	t.Helper()
	cmd := exec.Command(imagecache(t), "serve", "--config", k.daemon.config())
	cmd.Env = []string{"PATH=/nowhere", "HOME=" + k.daemon.dir, "DOCKER_CONFIG=" + k.daemon.dir}
	first := int64(0)
	if k.work.command == nil {
		first = n
	}
	p = startTraced(t, cmd, k.daemon.root, first)
	eventually(t, "imagecache is ready, or killed", func() error {
		if p.ended() {
			if !p.killed.Load() {
				content, _ := os.ReadFile(p.log)
				t.Fatalf("imagecache ended by itself:\n%s", content)
			}
			return nil
		}
		return k.daemon.ready()
	})
	if k.work.collects {
		k.awaitCollection(t, p.ended)
	}
	if k.work.command == nil {
		return p, k.work.always
	}
	p.arm(n)
	err := k.daemon.command(t, k.work.command(k.parcel)...).Run()
	if err != nil && !p.killed.Load() {
		t.Errorf("imagecache %v: %v", k.work.command(k.parcel), err)
	}
	return p, err == nil
}

// awaitCollection waits until what no longer fits is gone, or the daemon is.
func (k *killing) awaitCollection(t *testing.T, ended func() bool) {
	t.Helper()
	eventually(t, "the other image is evicted", func() error {
		printed, err := k.daemon.command(t, "images").Output()
		if ended() || err == nil && !strings.Contains(string(printed), another) {
			return nil
		}
		return fmt.Errorf("images are %s, error %v", printed, err)
	})
}

// look starts the daemon without upstream and judges.
func (k *killing) look(t *testing.T, when string, acked bool) {
	t.Helper()
	d := k.daemon
	d.start(t)
	if k.work.collects {
		k.awaitCollection(t, d.proc.ended) // else it goes while we count
	}
	for _, wrong := range k.wrongs(t, acked || k.work.always) {
		t.Errorf("%s (done: %v): %s", when, acked, wrong)
	}
	k.supply.setGone(false)
	d.start(t)
	d.mustRun(t, k.work.afterwards, k.parcel.reference())
	if !k.stands(t, map[string]string{"pull": "image", "pin": "pin"}[k.work.afterwards]) {
		t.Errorf("%s: not whole after another %s", when, k.work.afterwards)
	}
	d.proc.stop()
}

// wrongs tells what is wrong, and stops the daemon.
func (k *killing) wrongs(t *testing.T, settled bool) (wrongs []string) {
	t.Helper()
	if settled && k.work.want != "" && !k.stands(t, k.work.want) {
		wrongs = append(wrongs, fmt.Sprintf("%s was promised; images %+v, pins %+v", k.work.want, listed(t, k.daemon, "images"), listed(t, k.daemon, "pins")))
	}
	k.daemon.requireTrueStore(t)
	files := 0
	k.daemon.eachBlob(t, func(digest.Digest, string) { files++ })
	var usage struct {
		Blobs int `json:"blobs"`
	}
	if printed := k.daemon.mustRun(t, "df", "-o", "json"); json.Unmarshal([]byte(printed), &usage) != nil || usage.Blobs != files {
		wrongs = append(wrongs, fmt.Sprintf("there are %d files, df says %s", files, printed))
	}
	// A daemon that runs may be at work on partial files, for a pin that is not complete.
	k.daemon.proc.stop()
	return append(wrongs, k.leftovers(t)...)
}

// stands tells whether the image is complete, or pinned and complete, or not there.
func (k *killing) stands(t *testing.T, what string) bool {
	t.Helper()
	image, here := listed(t, k.daemon, "images")[k.parcel.reference()]
	pin := listed(t, k.daemon, "pins")[k.parcel.reference()]
	switch what {
	case "image":
		return image.Digest == k.parcel.digest && image.Complete
	case "pin":
		return pin.Digest == k.parcel.digest && pin.Complete && image.Complete
	}
	return !here && pin.Reference == ""
}

// leftovers are files that no process goes on with: temporary ones, and partial files and journals without each other.
func (k *killing) leftovers(t *testing.T) (left []string) {
	t.Helper()
	for _, pattern := range []string{"*.tmp", "ingest/*", "blobs/*/*.tmp"} {
		found, err := filepath.Glob(filepath.Join(k.daemon.root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			if !paired(path) {
				left = append(left, "left over: "+path)
			}
		}
	}
	return left
}

// paired tells whether a file is a partial file with its journal, or the journal.
func paired(path string) bool {
	stem, isPart := strings.CutSuffix(path, ".part")
	stem, isJournal := strings.CutSuffix(stem, ".journal")
	_, errPart := os.Stat(stem + ".part")
	_, errJournal := os.Stat(stem + ".journal")
	return (isPart || isJournal) && errors.Join(errPart, errJournal) == nil
}
