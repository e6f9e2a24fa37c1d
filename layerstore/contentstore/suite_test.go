package contentstore_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/log"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/contentstore"
)

func TestMain(m *testing.M) {
	// containerd's service logs every refusal that its suite provokes.
	if err := log.SetLevel("panic"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// house is an adapter and the store under it.
type house struct {
	*contentstore.Store
	blobs *layerstore.Store
}

func openAt(root string) (*house, error) {
	blobs, err := layerstore.Open(layerstore.Options{Root: root})
	if err != nil {
		return nil, err
	}
	s, err := contentstore.New(blobs, contentstore.Options{})
	if err != nil {
		return nil, errors.Join(err, blobs.Close())
	}
	return &house{s, blobs}, nil
}

func (h *house) close() error { return errors.Join(h.Store.Close(), h.blobs.Close()) }

// TestContentStore runs containerd's own suite.
func TestContentStore(t *testing.T) {
	testsuite.ContentSuite(t, "imagecache", func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		h, err := openAt(filepath.Join(root, "store"))
		if err != nil {
			return nil, nil, nil, err
		}
		return ctx, h, h.close, nil
	})
}

// TestContentStoreBehindContainerdsService runs the suite as a client of
// containerd sees the adapter: through its gRPC service on a socket.
func TestContentStoreBehindContainerdsService(t *testing.T) {
	testsuite.ContentSuite(t, "imagecache-grpc", func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		h, err := openAt(filepath.Join(root, "store"))
		if err != nil {
			return nil, nil, nil, err
		}
		client, stop, err := serve(h, filepath.Join(root, "socket"))
		if err != nil {
			return nil, nil, nil, errors.Join(err, h.close())
		}
		return ctx, client, func() error { return errors.Join(stop(), h.close()) }, nil
	})
}

func serve(s content.Store, socket string) (content.Store, func() error, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize)) // as containerd's
	api.RegisterContentServer(server, contentserver.New(s))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		server.Stop()
		return nil, nil, errors.Join(err, <-served)
	}
	stop := func() error {
		err := conn.Close()
		server.Stop()
		return errors.Join(err, <-served)
	}
	return proxy.NewContentStore(conn), stop, nil
}
