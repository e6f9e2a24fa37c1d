package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
)

// hint adds to an answer that says no what to do about it, where it is about who asks, or about where.
func (a *adminClient) hint(err *daemonError) error {
	if err.Detail != "" { // it is about that, and perhaps an upstream's own word
		return err
	}
	switch {
	case err.Status == http.StatusNotFound && err.Code == "UNSUPPORTED":
		return &hintedError{fmt.Errorf("at %s, %w", a.address, err),
			"this may be where clients pull from, or an older imagecache; administration is at access.admin_listen of the daemon's settings, or at admin"}
	case err.Status == http.StatusBadRequest && err.Code == "" && a.address.tcp != "" && !a.address.tls:
		return &hintedError{fmt.Errorf("at %s, %w", a.address, err), "if TLS is spoken there, its address is " + httpsScheme + a.address.tcp}
	case err.Status == http.StatusTooManyRequests && err.Wait != "":
		return &hintedError{err, "ask again in " + err.Wait + " seconds"}
	case !a.address.tls:
	case err.Status == http.StatusUnauthorized:
		return &hintedError{err, fmt.Sprintf("say who you are with %s and %s, or with %s and %s", envAdminUser, envAdminPassword, envAdminCert, envAdminKey)}
	case err.Status == http.StatusForbidden && err.Code == "DENIED":
		return &hintedError{err, "the daemon's access.rules say who has the verb admin"}
	}
	return err
}

// unreached says what to do when nobody answers.
func (a *adminClient) unreached() error {
	if a.address.tls {
		return &hintedError{fmt.Errorf("no daemon at %s", a.address), "is it running there, with access.admin_listen in its settings?"}
	}
	hint := ""
	if system := "/run/imagecache/imagecache.sock"; a.address.socket != system && socketThere(system) {
		hint = "there is one of the system's: add --admin unix://" + system
	}
	return &hintedError{fmt.Errorf("no daemon at %s: start it with \"imagecache serve\", or name its address with --admin", a.address), hint}
}

// brokenHint says what to do about a connection that did not come to be, or broke; "" where nothing is known to help.
func (a *adminClient) brokenHint(err error) string {
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, new(x509.HostnameError)):
		return "ask it by a name that is in its certificate"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the daemon needs another certificate: it reads tls.cert_file again when it changes"
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return "name the certificate of who signed its own with " + envAdminCA
	case errors.Is(err, http.ErrSchemeMismatch):
		return "no TLS is spoken there; administration is at access.admin_listen of the daemon's settings"
	}
	var failed *net.OpError
	dials := errors.As(err, &failed) && failed.Op == "dial"
	broke := slices.ContainsFunc([]error{syscall.EPIPE, syscall.ECONNRESET, io.EOF, io.ErrUnexpectedEOF}, func(b error) bool { return errors.Is(err, b) })
	switch {
	case a.showsCertificate && !dials: // what the daemon said of it is often lost, as the connection is closed before it is read
		return fmt.Sprintf("the daemon may not take our certificate: see %s, and tls.client_ca_file of its settings", envAdminCert)
	case broke:
		return "the connection broke: what was asked for may have been done; the daemon's log says so, in a line msg=audit"
	}
	return ""
}
