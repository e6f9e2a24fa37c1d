package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// listenMirror listens where clients pull from.
func listenMirror(ctx context.Context, address string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, explainListen(address, "--listen", err)
	}
	return listener, nil
}

// explainListen says what is in the way of an address.
func explainListen(address, flag string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &hintedError{fmt.Errorf("%s is in use by another program", address), "stop that one, or choose another " + flag}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return &hintedError{fmt.Errorf("%s is not an address of this machine", address), "choose another " + flag}
	case errors.Is(err, fs.ErrPermission):
		return &hintedError{fmt.Errorf("no right to listen on %s", address), "choose another " + flag + ", or run as a user who may"}
	}
	return fmt.Errorf("listening on %s: %w", address, err)
}

// listenAdmin listens for the commands, of the members of a group as well if there is one.
func listenAdmin(ctx context.Context, value, group string, uid int) (net.Listener, error) {
	address, err := parseAdminAddress(value)
	if err != nil {
		return nil, err
	}
	if address.socket != "" {
		listener, err := listenSocket(ctx, address.socket, "--admin", uid)
		if err != nil || group == "" {
			return listener, err
		}
		return listener, openToGroup(address.socket, group) // whose listener the daemon closes, which ends then
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address.tcp)
	if err != nil {
		return nil, explainListen(address.tcp, "--admin", err)
	}
	return listener, nil
}

// listenSocket listens on a unix socket of mode 0600. The folder is made, 0700, when it is missing. A socket that nobody listens on any
// more is removed; a living one is another daemon's and stays. flag is the one that says where, for errors.
func listenSocket(ctx context.Context, path, flag string, uid int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, explainListen(unixScheme+path, flag, err)
	}
	if err := checkOwnFolder(filepath.Dir(path), uid); err != nil {
		return nil, err
	}
	if err := removeDeadSocket(ctx, path, flag); err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, explainListen(unixScheme+path, flag, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close() // the failure to be told is the other one
		return nil, err
	}
	return listener, nil
}

// removeDeadSocket removes what a killed daemon left.
func removeDeadSocket(ctx context.Context, path, flag string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return &hintedError{fmt.Errorf("%s is there and is not a socket", path), "remove it, or choose another " + flag}
	}
	dialer := &net.Dialer{Timeout: time.Second} // a daemon of this machine accepts at once
	connection, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		_ = connection.Close() // only its being there was of interest
		return &hintedError{fmt.Errorf("another imagecache is serving at %s%s", unixScheme, path), "stop that one, or choose another " + flag}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s is there, and whether anybody serves it cannot be told: %w", path, err)
	}
	return os.Remove(path)
}
