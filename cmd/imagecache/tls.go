package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// reloadEvery is how often the files of TLS are looked at for a change.
const reloadEvery = time.Second

// tlsFiles are the files of TLS, read again when they change: certificates are renewed while we run. Files that cannot be read, as in
// the moment in which one of two has been replaced, leave what was read before.
type tlsFiles struct {
	settings TLSSettings
	log      *slog.Logger

	mu     sync.Mutex // guards what follows
	config *tls.Config
	stamps [3]time.Time
	looked time.Time
}

// openTLS reads the files.
func openTLS(s TLSSettings, log *slog.Logger) (*tlsFiles, error) {
	f := &tlsFiles{settings: s, log: log, stamps: stampsOf(s), looked: time.Now()}
	var err error
	f.config, err = s.read()
	f.warn()
	return f, err
}

// warn tells of a certificate that clients do not take. f.mu is held, but for the first time.
func (f *tlsFiles) warn() {
	if f.config == nil {
		return
	}
	if cert := f.config.Certificates[0].Leaf; time.Now().After(cert.NotAfter) || time.Now().Before(cert.NotBefore) {
		f.log.Warn("clients will not take the certificate: it is good at another time", "file", f.settings.CertFile, "from", cert.NotBefore, "until", cert.NotAfter)
	}
}

// server is the configuration of a listener: each connection gets what the files say then.
func (f *tlsFiles) server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.now(), nil }}
}

func (f *tlsFiles) now() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < reloadEvery {
		return f.config
	}
	f.looked = time.Now()
	stamps := stampsOf(f.settings)
	if stamps == f.stamps {
		return f.config
	}
	config, err := f.settings.read()
	if err != nil {
		f.log.Warn("the files of TLS have changed and cannot be read; what was read before is used", "error", err)
		return f.config
	}
	f.config, f.stamps = config, stamps
	f.log.Info("the files of TLS were read again")
	f.warn()
	return config
}

// stampsOf tells whether the files are others than before.
func stampsOf(s TLSSettings) (stamps [3]time.Time) {
	for i, path := range []string{s.CertFile, s.KeyFile, s.ClientCAFile} {
		if info, err := os.Stat(path); err == nil {
			stamps[i] = info.ModTime()
		}
	}
	return stamps
}

func (s TLSSettings) read() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{certificate}}
	if s.ClientCAFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(s.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls: %s holds no certificate", s.ClientCAFile)
	}
	return config, nil
}
