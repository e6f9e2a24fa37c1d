package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Variables that say how a command signs in with a daemon on another machine.
const (
	envAdminUser     = "IMAGECACHE_ADMIN_USER"
	envAdminPassword = "IMAGECACHE_ADMIN_PASSWORD_FILE" // or a token of an issuer's
	envAdminCA       = "IMAGECACHE_ADMIN_CA_FILE"       // who signs the daemon's certificate; unset: whom the system trusts
	envAdminCert     = "IMAGECACHE_ADMIN_CERT_FILE"     // a certificate of our own, and its key
	envAdminKey      = "IMAGECACHE_ADMIN_KEY_FILE"
)

// clientEnv are variables of the commands, which mean nothing to the daemon.
var clientEnv = []string{envAdminUser, envAdminPassword, envAdminCA, envAdminCert, envAdminKey}

// limitSecretFile bounds a file with a password, in bytes: tokens of issuers have a few KiB.
const limitSecretFile = 64 << 10

// adminLogin is a user and a password; the zero value is none.
type adminLogin struct{ user, password string }

// signIn makes a client show who it is, as the environment says.
func (c *cli) signIn(client *adminClient) error {
	login, err := c.adminLogin()
	if err != nil {
		return err
	}
	config, err := c.adminTLS()
	if err != nil {
		return err
	}
	client.login = login
	if transport, ok := client.http.Transport.(*http.Transport); ok {
		transport.TLSClientConfig = config
	}
	return nil
}

func (c *cli) adminLogin() (adminLogin, error) {
	user, file := c.getenv(envAdminUser), c.getenv(envAdminPassword)
	if user == "" && file == "" {
		return adminLogin{}, nil
	}
	if user == "" || file == "" {
		return adminLogin{}, fmt.Errorf("%s and %s go together", envAdminUser, envAdminPassword)
	}
	content, err := readLimited(file, limitSecretFile)
	if err != nil {
		return adminLogin{}, fmt.Errorf("%s: %w", envAdminPassword, err)
	}
	return adminLogin{user, strings.TrimRight(string(content), "\r\n")}, nil
}

func (c *cli) adminTLS() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := c.getenv(envAdminCA); file != "" {
		pem, err := readLimited(file, limitConfigFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", envAdminCA, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: %s holds no certificate", envAdminCA, file)
		}
	}
	cert, key := c.getenv(envAdminCert), c.getenv(envAdminKey)
	if cert == "" && key == "" {
		return config, nil
	}
	if cert == "" || key == "" {
		return nil, fmt.Errorf("%s and %s go together", envAdminCert, envAdminKey)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envAdminCert, err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// hint adds what to do to a refusal of who asks.
func (a *adminClient) hint(status int, err error) error {
	if !a.address.tls {
		return err
	}
	switch status {
	case http.StatusUnauthorized:
		return &hintedError{err, fmt.Sprintf("say who you are with %s and %s, or with %s and %s", envAdminUser, envAdminPassword, envAdminCert, envAdminKey)}
	case http.StatusForbidden:
		return &hintedError{err, "the daemon's access.rules say who has the verb admin"}
	}
	return err
}

// untrusted reports whether the daemon's certificate is one that we do not trust.
func untrusted(err error) bool {
	return errors.As(err, new(*tls.CertificateVerificationError))
}
