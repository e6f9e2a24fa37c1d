package erofs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Support is what [Probe] found.
type Support struct {
	Way Way
	Why string // what was tried and how it went, for a log and for people
}

func (s Support) String() string {
	switch s.Way {
	case FromFile:
		return "EROFS files are mounted as they are: " + s.Why
	case ThroughLoop:
		return "EROFS files are mounted through loop devices: " + s.Why
	}
	return "EROFS files are not mounted: " + s.Why
}

// Probe finds out whether this process can mount EROFS files that lie on the
// filesystem of dir, and how: it writes a small one there, mounts it, puts an
// overlay over it as a container has it, and another over that one, as a container
// within a container does. What fails in one way is tried in the next.
//
// It does so in a mount namespace of its own, which goes with it however it ends.
// dir is Probe's alone: what another Probe left there when it was killed is
// removed, and dir itself at the end.
func Probe(dir string) Support {
	return probe{dir: dir, ways: []Way{FromFile, ThroughLoop}}.run()
}

// sweep removes the folder of a probe, and what might be mounted in it.
func sweep(dir string) error {
	if err := UnmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// probe is one run of Probe.
type probe struct {
	dir  string
	ways []Way // to be tried, the best first
}

func (p probe) run() Support {
	if err := sweep(p.dir); err != nil {
		return Support{Why: "the folder of the probe: " + err.Error()}
	}
	defer sweep(p.dir)
	if err := p.prepare(); err != nil {
		return Support{Why: "writing what is to be mounted: " + err.Error()}
	}
	if err := seenByOthers(p.dir); err != nil {
		return Support{Why: err.Error()}
	}
	return p.inNamespace()
}

func (p probe) path(name string) string { return filepath.Join(p.dir, name) }

// prepare writes the image, the layer below it, and the folders to mount at.
func (p probe) prepare() error {
	for _, name := range []string{"below/folder", "layer", "once", "twice", "empty"} {
		if err := os.MkdirAll(p.path(name), 0o700); err != nil {
			return err
		}
	}
	for _, name := range []string{"below/gone", "below/folder/hidden"} {
		if err := os.WriteFile(p.path(name), []byte("below"), 0o600); err != nil {
			return err
		}
	}
	return writeSample(p.path("layer.erofs"))
}

// inNamespace tries all ways on a thread that has mounts of its own, which end
// with it.
func (p probe) inNamespace() (s Support) {
	onSpareThread(func() {
		if err := ownNamespace(); err != nil {
			s = Support{Why: err.Error()}
			return
		}
		s = p.tryAll()
	})
	return s
}

// onSpareThread runs f on a thread that ends with it: its goroutine never unlocks
// it. That must not be the first thread of the process. It would be kept, and what
// it sees is what /proc tells of the whole process.
func onSpareThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		defer runtime.UnlockOSThread() // held until then, so that f gets another
		onSpareThread(f)
	}()
	<-done
}

func ownNamespace() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a mount namespace for the probe (it takes root): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping the probe's mounts from others: %w", err)
	}
	return nil
}

func (p probe) tryAll() Support {
	var why []string
	for _, way := range p.ways {
		err := p.try(way)
		if err == nil {
			return Support{Way: way, Why: strings.Join(append(why, "a mount, an overlay on it, and an overlay on that all work"), "; ")}
		}
		why = append(why, fmt.Sprintf("%s: %v", wayWords[way], err))
	}
	return Support{Why: strings.Join(why, "; ")}
}

var wayWords = map[Way]string{FromFile: "from the file", ThroughLoop: "through a loop device"}

// try mounts all of it in one way, looks, and unmounts it again.
func (p probe) try(way Way) error {
	defer func() {
		for _, name := range []string{"twice", "once", "layer"} {
			Unmount(p.path(name)) // should one fail, the namespace goes with all of them
		}
	}()
	if err := Mount(p.path("layer.erofs"), p.path("layer"), Support{Way: way}); err != nil {
		return explain(way, err)
	}
	if err := checkSample(p.path("layer")); err != nil {
		return err
	}
	if err := overlay(p.path("once"), p.path("layer"), p.path("below")); err != nil {
		return fmt.Errorf("an overlay on it: %w", err)
	}
	if err := checkOverlay(p.path("once")); err != nil {
		return fmt.Errorf("an overlay on it: %w", err)
	}
	if err := overlay(p.path("twice"), p.path("once"), p.path("empty")); err != nil {
		return fmt.Errorf("an overlay on an overlay on it, as in a container within a container "+
			"(this kernel counts such a mount as a stacked filesystem, of which it allows two): %w", err)
	}
	return checkOverlay(p.path("twice"))
}

// explain says what an error of the kernel means here.
func explain(way Way, err error) error {
	if way == FromFile && errors.Is(err, unix.ENOTBLK) {
		return errors.New("the kernel wants a block device instead (it is older than 6.12, or built without " +
			"CONFIG_EROFS_FS_BACKED_BY_FILE, or this is a filesystem such as tmpfs)")
	}
	return err
}

// overlay mounts a read-only overlay of two folders. The paths are short: mount(2)
// takes options of up to one page.
func overlay(target, upper, lower string) error {
	return os.NewSyscallError("mount", unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+escape(upper)+":"+escape(lower)))
}

// escape writes a path as overlay's options want it.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace(path)
}
