package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/imagecache/imagecache/api/access"
)

// at puts before an error where a key was set: the first of some that was.
func (s *Settings) at(err error, keys ...string) error {
	if err == nil {
		return nil
	}
	for _, key := range keys {
		if from := s.origins[key]; from != originDefault && from != "" {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	return err
}

// check finds what a daemon could not run with, though each value means something.
func (s *Settings) check() error {
	if err := s.checkAccess(); err != nil {
		return err
	}
	if err := s.checkAdminGroup(); err != nil {
		return err
	}
	return s.checkAddresses()
}

// checkAccess checks what no single value of [tls] and [access] shows.
func (s *Settings) checkAccess() error {
	signIn := []string{"access.htpasswd_file", "access.issuers"}
	switch {
	case (s.TLS.CertFile == "") != (s.TLS.KeyFile == ""):
		return s.at(errors.New("tls: cert_file and key_file go together"), "tls.cert_file", "tls.key_file")
	case s.TLS.ClientCAFile != "" && s.TLS.CertFile == "":
		return s.at(errors.New("tls: client_ca_file is of no use without cert_file and key_file"), "tls.client_ca_file")
	case (s.Access.HtpasswdFile != "" || len(s.Access.Issuers) > 0) && len(s.Access.Rules) == 0:
		return s.at(errors.New("access: callers can sign in, but no rule says what they may: add rules"), signIn...)
	case s.Access.HtpasswdFile != "" && s.TLS.CertFile == "" && s.Access.TokenURL == "" && !s.openByDefault():
		return s.at(errors.New("access: passwords would cross the network in the clear: add [tls], or token_url where a proxy in front speaks TLS"), signIn...)
	}
	return s.at(s.checkAdminListen(), adminListenKey)
}

const adminListenKey = "access.admin_listen"

// checkAdminListen refuses to be administered over the network by nobody in particular.
func (s *Settings) checkAdminListen() error {
	admin := func(r access.Rule) bool { return slices.Contains(r.May, access.Admin) }
	switch {
	case s.Access.AdminListen == "":
	case s.TLS.CertFile == "":
		return errors.New("access: admin_listen needs TLS: add [tls] with cert_file and key_file")
	case !slices.ContainsFunc(s.Access.Rules, admin):
		return errors.New("access: admin_listen needs a rule that says who may administrate, as in rules = [\"user:ann admin\"]")
	case s.Access.HtpasswdFile == "" && len(s.Access.Issuers) == 0 && s.TLS.ClientCAFile == "":
		return errors.New("access: admin_listen needs callers who can show who they are: add htpasswd_file, issuers, or client_ca_file in [tls]")
	}
	return nil
}

// checkAddresses refuses to listen twice where only one can.
func (s *Settings) checkAddresses() error {
	addresses := []struct{ key, address string }{{"listen", s.Listen}, {"admin", s.adminPort()}, {adminListenKey, s.Access.AdminListen}}
	for i, one := range addresses {
		for _, other := range addresses[:i] {
			if clash(one.address, other.address) {
				return s.at(fmt.Errorf("%s %s is taken by %s %s: want another port", one.key, one.address, other.key, other.address), one.key, other.key)
			}
		}
	}
	return nil
}

// adminPort is the host:port of the administration, "" where it is a socket.
func (s *Settings) adminPort() string {
	address, err := parseAdminAddress(s.Admin)
	if err != nil {
		return "" // as it was found already
	}
	return address.tcp
}

// clash reports whether two addresses cannot be listened at by two. Port 0 is any that is free.
func clash(one, other string) bool {
	host, port, err := net.SplitHostPort(one)
	if err != nil {
		return false
	}
	otherHost, otherPort, err := net.SplitHostPort(other)
	if err != nil || port != otherPort || port == "0" {
		return false
	}
	return host == otherHost || isEverywhere(host) || isEverywhere(otherHost)
}

func isEverywhere(host string) bool { return host == "" || net.ParseIP(host).IsUnspecified() }

// fileFault says where the file was named that a failure is about.
func (s *Settings) fileFault(err error) error {
	if err == nil {
		return nil
	}
	for _, f := range []struct{ key, file string }{
		{"tls.client_ca_file", s.TLS.ClientCAFile}, {"tls.key_file", s.TLS.KeyFile}, {"tls.cert_file", s.TLS.CertFile}, {"access.htpasswd_file", s.Access.HtpasswdFile},
	} {
		if f.file != "" && strings.Contains(err.Error(), f.file) {
			return s.at(err, f.key)
		}
	}
	if strings.HasPrefix(err.Error(), tlsTable+":") { // the two do not fit
		return s.at(err, "tls.cert_file")
	}
	return s.at(err, "access.issuers")
}
