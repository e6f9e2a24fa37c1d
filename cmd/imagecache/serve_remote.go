package main

import (
	"context"
	"net"
	"net/http"
)

// listenRemote listens for administration over the network, where the settings say so. checkAccess has seen to it that there is TLS.
func (d *daemon) listenRemote(ctx context.Context) (err error) {
	address := d.settings.Access.AdminListen
	if address == "" {
		return nil
	}
	if d.remote, err = (&net.ListenConfig{}).Listen(ctx, "tcp", address); err != nil {
		d.remote = nil // not a nil pointer in an interface
		return explainListen(address, "--access-admin-listen", err)
	}
	return nil
}

// serveRemote serves it, if anybody listens.
func (d *daemon) serveRemote(server *http.Server, failed chan<- error) {
	if d.remote == nil {
		return
	}
	server.TLSConfig = d.tls.server()
	d.log.Info("administration over the network", "listen", d.remote.Addr().String())
	go func() { failed <- server.ServeTLS(d.remote, "", "") }()
}
