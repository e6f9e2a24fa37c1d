package mount_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/imagecache/imagecache/mount"
	"github.com/imagecache/imagecache/mount/forms"
)

// kinds are those of forms, as far as this machine has them.
var kinds = []string{forms.KindDirectory, forms.KindEROFS}

// containerd's own suite judges us as overlayfs: others are to rename folders
// of lower layers, which needs an option that containerd does not set.
const suiteName = "overlayfs"

func TestContainerdsSuite(t *testing.T) {
	needMounts(t)
	for name, open := range map[string]func(t *testing.T, root string) (snapshots.Snapshotter, func()){
		"direct": func(t *testing.T, root string) (snapshots.Snapshotter, func()) {
			r := openRoom(t, root, forms.KindDirectory, newShelf())
			return r, r.close
		},
		"directory": formedOf(forms.KindDirectory),
		"erofs":     formedOf(forms.KindEROFS),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testsuite.SnapshotterSuite(t, suiteName, func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				s, stop := open(t, root)
				return s, func() error { stop(); unmountBelow(t, root); return nil }, nil
			})
		})
	}
}

// formedOf opens a snapshotter over gRPC whose committed snapshots are forms.
func formedOf(kind string) func(*testing.T, string) (snapshots.Snapshotter, func()) {
	return func(t *testing.T, root string) (snapshots.Snapshotter, func()) {
		r := openRoom(t, root, kind, newShelf())
		over, hangUp := overGRPC(t, r)
		return newFormed(over, r), func() { hangUp(); r.close() }
	}
}

// overGRPC is a snapshotter as containerd reaches it.
func overGRPC(t testing.TB, r *room) (over snapshots.Snapshotter, hangUp func()) {
	t.Helper()
	socket := filepath.Join(r.root, "s.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	service := mount.NewService(r.Snapshotter, nil)
	served := make(chan error, 1)
	go func() { served <- service.Serve(listener) }()
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return proxy.NewSnapshotter(api.NewSnapshotsClient(connection), suiteName), func() {
		if err := errors.Join(connection.Close(), service.Shutdown(context.WithoutCancel(t.Context())), <-served); err != nil {
			t.Error(err)
		}
	}
}
