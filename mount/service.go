package mount

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Service answers containerd over gRPC. Whoever can reach its listener owns all
// snapshots: it asks nobody who they are.
type Service struct {
	grpc *grpc.Server
}

// NewService makes a service of a snapshotter, which it does not close. log
// gets the faults of the program that a call met; nil: they are discarded.
func NewService(s snapshots.Snapshotter, log *slog.Logger) *Service {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	guard := &guard{log}
	server := grpc.NewServer(grpc.UnaryInterceptor(guard.unary), grpc.StreamInterceptor(guard.stream))
	api.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	return &Service{server}
}

// Serve answers until Shutdown, which makes it return nil. It closes the listener.
func (v *Service) Serve(l net.Listener) error { return v.grpc.Serve(l) }

// Shutdown refuses new calls, and lets those under way end until ctx does: then
// they are cut, which containerd takes for a snapshotter that restarts.
func (v *Service) Shutdown(ctx context.Context) error {
	ended := make(chan struct{})
	go func() { defer close(ended); v.grpc.GracefulStop() }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		v.grpc.Stop()
		<-ended
		return context.Cause(ctx)
	}
}

// guard turns a panic in a call into an error of that call: the daemon serves
// others, who must not pay for it.
type guard struct{ log *slog.Logger }

func (g *guard) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
	defer g.caught(info.FullMethod, &err)
	return next(ctx, request)
}

func (g *guard) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer g.caught(info.FullMethod, &err)
	return next(server, stream)
}

// caught is deferred.
func (g *guard) caught(method string, err *error) {
	if fault := recover(); fault != nil {
		g.log.Error("a fault of the program in a call of the snapshotter", "method", method, "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "imagecache: a fault of the program: %v", fault)
	}
}
