package api

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

type localKey struct{}

// WithPeer notes in the context of a connection over a unix socket which user
// of this machine is at its other end; it is for http.Server.ConnContext.
func WithPeer(ctx context.Context, c net.Conn) context.Context {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	if raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, localKey{}, fmt.Sprintf("uid:%d", peer.Uid))
}

// localCaller is who asks over the administration's own address.
func localCaller(ctx context.Context) string {
	if name, ok := ctx.Value(localKey{}).(string); ok {
		return name
	}
	return "operator"
}
