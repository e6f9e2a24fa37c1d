//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// scratch is a folder for what all tests of a run share. Its path is short, because paths of unix sockets must be.
var scratch string

// cacheFolder is where setup.sh puts the programs that it builds, and beside them the tree of a Debian.
func cacheFolder() (string, error) {
	if bin := os.Getenv("IMAGECACHE_E2E_BIN"); bin != "" {
		return bin, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "imagecache-e2e", "bin"), nil
}

// debianTree is the path of the gzipped tar of a minimal Debian.
func debianTree() string {
	bin, err := cacheFolder()
	if err != nil {
		return ""
	}
	return filepath.Join(filepath.Dir(bin), "debian.tar.gz")
}

// built gives the path of a program that setup.sh built.
func built(name string) string {
	bin, err := cacheFolder()
	if err != nil {
		return ""
	}
	return filepath.Join(bin, name)
}

// debian gives the path of a program that setup.sh installed from Debian.
func debian(name string) string {
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return filepath.Join("/usr/bin", name)
}

// checkPrograms says what is missing, and how to get it: without its programs the suite fails rather than to pass by doing nothing.
func checkPrograms() error {
	if os.Geteuid() != 0 {
		return errors.New("the end-to-end tests run containers: run them as root")
	}
	needed := []string{debianTree(), glewlwyd("usr/bin/glewlwyd")}
	for _, name := range []string{"containerd", "ctr", "containerd-shim-runc-v2", "crane", "regctl", "registry"} {
		needed = append(needed, built(name))
	}
	for _, name := range []string{"docker-registry", "containerd", "ctr", "containerd-shim-runc-v2", "runc", "skopeo", "busybox", "strace", "mkfs.ext4", "mkfs.xfs", "mount", "sqlite3"} {
		needed = append(needed, debian(name))
	}
	var missing []string
	for _, path := range needed {
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, path)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s; e2e/setup.sh installs what the end-to-end tests need", strings.Join(missing, ", "))
	}
	return nil
}

// buildImagecache builds the program under test once. IMAGECACHE_BIN names one that is built already.
var buildImagecache = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("IMAGECACHE_BIN"); path != "" {
		return path, nil
	}
	path := filepath.Join(scratch, "imagecache")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/imagecache").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building imagecache: %w\n%s", err, out)
	}
	return path, nil
})

// imagecache is the path of the program under test.
func imagecache(t *testing.T) string {
	t.Helper()
	path, err := buildImagecache()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// output runs a program to its end and gives its standard output; any failure ends the test with all it said.
func output(t *testing.T, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", path, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}
