package main

import (
	"crypto/tls"
	"crypto/x509"
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
	client.login, client.showsCertificate = login, config.GetClientCertificate != nil
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
		return adminLogin{}, together(envAdminUser, envAdminPassword)
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
		return nil, together(envAdminCert, envAdminKey)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envAdminCert, err)
	}
	// It is shown whatever the daemon says it takes: one that is not taken is refused then, and not left unsaid.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return config, nil
}

// together says that of two variables one is missing.
func together(one, other string) error {
	return &usageError{problem: fmt.Sprintf("%s and %s go together", one, other)}
}
