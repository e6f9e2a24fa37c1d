package mount_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/imagecache/imagecache/mount"
)

// faulty panics, and waits.
type faulty struct {
	snapshots.Snapshotter
	called chan struct{}
}

func (f *faulty) Stat(context.Context, string) (snapshots.Info, error) { panic("a fault") }
func (f *faulty) Walk(context.Context, snapshots.WalkFunc, ...string) error {
	panic("a fault")
}
func (f *faulty) Remove(ctx context.Context, _ string) error {
	close(f.called)
	<-ctx.Done()
	return ctx.Err()
}

func serveFaulty(t *testing.T) (*faulty, snapshots.Snapshotter, *mount.Service) {
	t.Helper()
	f := &faulty{called: make(chan struct{})}
	service := mount.NewService(f, nil)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- service.Serve(listener) }()
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = service.Shutdown(ended)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return f, proxy.NewSnapshotter(api.NewSnapshotsClient(connection), "imagecache"), service
}

// The daemon serves others too: they must not pay for one call's fault.
func TestAFaultInACallEndsThatCall(t *testing.T) {
	_, s, _ := serveFaulty(t)
	for range 2 {
		if _, err := s.Stat(t.Context(), "a"); status.Code(err) == codes.OK {
			t.Error("it answered")
		}
		if err := s.Walk(t.Context(), nil); err == nil {
			t.Error("it answered")
		}
	}
}

// A call that does not end is cut when the time to drain is over.
func TestShutdownIsBounded(t *testing.T) {
	f, s, service := serveFaulty(t)
	answered := make(chan error, 1)
	go func() { answered <- s.Remove(t.Context(), "a") }()
	<-f.called
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := service.Shutdown(ctx); err == nil {
		t.Error("it says that all calls ended")
	}
	if err := <-answered; err == nil {
		t.Error("the call that was cut succeeded")
	}
}
