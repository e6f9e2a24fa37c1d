package layertree_test

import (
	"archive/tar"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/imagecache/imagecache/mount/layertree"
)

// Few names and few of everything, so that entries meet.
var (
	parts       = rapid.SampledFrom([]string{"a", "b", "c", "d"})
	randomMode  = rapid.SampledFrom([]int64{0o644, 0o755, 0o2775, 0o4711, 0o1777, 0})
	randomOwner = rapid.SampledFrom([]int{0, 1, 1000, 3_000_000, -1})
	randomTime  = rapid.SampledFrom([]time.Time{someTime, time.Unix(-1, 0), time.Unix(9, 9), time.Unix(1_000_000_000, 0)})
	randomXattr = rapid.SampledFrom([][2]string{{"user.x", "1"}, {"user.y", ""}, {"trusted.x", "1"}, {"security.capability", capabilityValue}, {"user.x", "2"}})
)

func randomPath(t *rapid.T, label string) string {
	path := strings.Join(rapid.SliceOfN(parts, 1, 4).Draw(t, label), "/")
	switch rapid.IntRange(0, 9).Draw(t, label+" form") {
	case 0:
		return "/" + path
	case 1:
		return "../" + path
	case 2:
		return path + "/../" + parts.Draw(t, label+" beside")
	case 3:
		return path + "/."
	}
	return path
}

func whiteoutOf(path string) string {
	at := strings.LastIndex(path, "/") + 1
	return path[:at] + ".wh." + path[at:]
}

func randomEntry(t *rapid.T) entry {
	name := randomPath(t, "name")
	changes := []change{
		mode(randomMode.Draw(t, "mode")),
		owner(randomOwner.Draw(t, "uid"), randomOwner.Draw(t, "gid")),
		at(randomTime.Draw(t, "time")),
	}
	if rapid.IntRange(0, 3).Draw(t, "with xattr") == 0 {
		x := randomXattr.Draw(t, "xattr")
		changes = append(changes, xattr(x[0], x[1]))
	}
	switch rapid.IntRange(0, 11).Draw(t, "kind") {
	case 0, 1, 2, 3:
		return folder(name, changes...)
	case 4, 5, 6:
		return file(name, rapid.SampledFrom([]string{"", "x", "other"}).Draw(t, "body"), changes...)
	case 7:
		return symlink(name, randomPath(t, "target"), changes...)
	case 8:
		return hardlink(name, randomPath(t, "target"), changes...)
	case 9:
		return empty(whiteoutOf(name), changes...)
	case 10:
		return empty(name+"/.wh..wh..opq", changes...)
	}
	return newEntry(tar.TypeFifo, name, 0o600, changes)
}

func randomLayers(t *rapid.T) [][]byte {
	var layers [][]byte
	for range rapid.IntRange(1, 4).Draw(t, "layers") {
		data, err := tryPack(rapid.SliceOfN(rapid.Custom(randomEntry), 0, 8).Draw(t, "entries"))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, data)
	}
	return layers
}

// TestRandomLayersAgainstContainerd compares whatever a tar may hold.
func TestRandomLayersAgainstContainerd(t *testing.T) {
	needOverlay(t)
	agreed, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "lt")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		problems, containerd, ours := compareChains(dir, randomLayers(t))
		for _, p := range problems {
			t.Error(p)
		}
		switch {
		case containerd == nil && ours == nil:
			agreed++
		case containerd != nil && ours != nil:
			refused++
		case ours == nil && !linkToBelow(containerd):
			t.Errorf("taken, though containerd says %v", containerd)
		case containerd == nil && !leftToContainerd(ours):
			t.Errorf("refused, though containerd takes it: %v", ours)
		}
	})
	t.Logf("%d chains were the same, %d were refused by both", agreed, refused)
}

// linkToBelow is the one thing that containerd refuses and we take.
func linkToBelow(err error) bool {
	link := new(os.LinkError)
	return errors.As(err, &link) && errors.Is(err, syscall.ENOENT)
}

// leftToContainerd is what depends on the host's files.
func leftToContainerd(err error) bool {
	refused := new(layertree.RefusedError)
	return errors.As(err, &refused) && strings.Contains(err.Error(), "depends on files of the host")
}
