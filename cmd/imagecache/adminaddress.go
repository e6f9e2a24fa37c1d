package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// limitSocketPath is what sockaddr_un holds on Linux, without its closing zero.
const limitSocketPath = 107 // bytes

// adminAddress is where administration is served: a unix socket or a TCP address, never both.
type adminAddress struct {
	socket string // absolute path
	tcp    string // host:port
	tls    bool   // of tcp, which may be another machine's then
}

func (a adminAddress) String() string {
	if a.socket != "" {
		return unixScheme + a.socket
	}
	if a.tls {
		return httpsScheme + a.tcp
	}
	return "http://" + a.tcp
}

const httpsScheme = "https://"

// parseClientAddress takes what a command may ask: also https://host:port, where a daemon has access.admin_listen.
func parseClientAddress(value string) (adminAddress, error) {
	if !strings.HasPrefix(value, httpsScheme) {
		address, err := parseAdminAddress(value)
		if _, isUnix := trimUnix(value); err != nil && !isUnix {
			err = fmt.Errorf("%w; over the network, https://host:port", err)
		}
		return address, err
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || (u.Path != "" && u.Path != "/") {
		return adminAddress{}, fmt.Errorf("%q is not an address of administration: want https://host:port", value)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "443")
	}
	return adminAddress{tcp: u.Host, tls: true}, nil
}

// parseAdminAddress takes unix:///path or http://host:port. Administration knows no login, so over TCP it is for loopback only.
func parseAdminAddress(value string) (adminAddress, error) {
	if path, isUnix := trimUnix(value); isUnix {
		if !filepath.IsAbs(path) {
			return adminAddress{}, fmt.Errorf("%q: want unix:// and an absolute path, as in unix:///run/imagecache/imagecache.sock", value)
		}
		if len(path) > limitSocketPath {
			return adminAddress{}, fmt.Errorf("%q: a socket's path has at most %d bytes, this has %d", value, limitSocketPath, len(path))
		}
		return adminAddress{socket: filepath.Clean(path)}, nil
	}
	if strings.HasPrefix(value, httpsScheme) {
		return adminAddress{}, fmt.Errorf("%q: to be administered over the network, set access.admin_listen, as in \"0.0.0.0:5051\"", value)
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || (u.Path != "" && u.Path != "/") {
		return adminAddress{}, fmt.Errorf("%q is not an address of administration: want unix:///path or http://127.0.0.1:port", value)
	}
	host, _, err := splitHostPort(u.Host)
	if err != nil {
		return adminAddress{}, err
	}
	if host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return adminAddress{}, fmt.Errorf("%q: administration has no login, so it is for this machine only: want a unix socket or a loopback address", value)
	}
	return adminAddress{tcp: u.Host}, nil
}

// checkOwnFolder refuses a folder for the socket that somebody else could have prepared for us.
func checkOwnFolder(path string, uid int) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", path)
	}
	owner, known := ownerOf(info)
	if known && owner != uid && owner != 0 {
		return fmt.Errorf("%s belongs to user %d, not to user %d who runs this", path, owner, uid)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s may be written by others (mode %04o): make it 0700, or choose another --admin", path, info.Mode().Perm())
	}
	return nil
}

// ownerOf is the user that a file belongs to.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	stat, known := info.Sys().(*syscall.Stat_t)
	if !known {
		return 0, false
	}
	return int(stat.Uid), true
}
