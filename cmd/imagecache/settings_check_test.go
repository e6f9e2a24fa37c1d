package main

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWhatDoesNotFitTogetherIsToldWithItsLine by every command that reads the settings.
func TestWhatDoesNotFitTogetherIsToldWithItsLine(t *testing.T) {
	const pair = "[tls]\ncert_file = \"/x.crt\"\nkey_file = \"/x.key\"\n"
	for name, c := range map[string]struct {
		file string
		want []string
	}{
		"half a pair":            {"[tls]\nkey_file = \"/x.key\"\n", []string{":2:", "cert_file and key_file go together"}},
		"an authority alone":     {"\n[tls]\nclient_ca_file = \"/x.crt\"\n", []string{":3:", "of no use without cert_file"}},
		"users without rules":    {"[access]\nhtpasswd_file = \"/x\"\n", []string{":2:", "no rule says what they may"}},
		"passwords in the clear": {"listen = \":5050\"\n[access]\nrules = [\"* pull **\"]\nhtpasswd_file = \"/x\"\n", []string{":4:", "in the clear"}},
		"no TLS":                 {"[access]\nadmin_listen = \":5051\"\n", []string{":2:", "admin_listen needs TLS"}},
		"nobody may":             {pair + "[access]\nadmin_listen = \":5051\"\n", []string{":5:", "needs a rule"}},
		"one address for two": {pair + "client_ca_file = \"/x.crt\"\n[access]\nrules = [\"certificate:x admin\"]\nadmin_listen = \":5050\"\n",
			[]string{":7:", "access.admin_listen :5050 is taken by listen 127.0.0.1:5050"}},
		"the mirror's port": {"listen = \"127.0.0.1:7000\"\nadmin = \"http://127.0.0.1:7000\"\n", []string{":2:", "is taken by listen"}},
	} {
		file := filepath.Join(t.TempDir(), "config.toml")
		writeFile(t, file, c.file, 0o600)
		code, _, errs := commandLine(t, []string{"HOME=" + t.TempDir()}, "config", "--config", file)
		for _, want := range append(c.want, "config.toml") {
			if code == 0 || !strings.Contains(errs, want) {
				t.Errorf("%s: %d %q, want %q", name, code, errs, want)
			}
		}
	}
}

// TestAFileThatCannotBeReadIsToldWithItsLine when the daemon reads it.
func TestAFileThatCannotBeReadIsToldWithItsLine(t *testing.T) {
	folder := t.TempDir()
	for name, c := range map[string]struct{ file, want string }{
		"a key":        {"[tls]\ncert_file = \"/nosuch.crt\"\nkey_file = \"/nosuch.key\"\n", "config.toml:2: tls: open /nosuch.crt"},
		"users":        {"[access]\nrules = [\"* pull **\"]\nhtpasswd_file = \"/nosuch\"\n", "config.toml:3: htpasswd_file: open /nosuch"},
		"an authority": {"[access]\nrules = [\"* pull **\"]\nissuers = [\"https://login.example audience=x ca_file=/nosuch\"]\n", "config.toml:3: issuer https://login.example"},
	} {
		file := filepath.Join(folder, "config.toml")
		writeFile(t, file, c.file, 0o600)
		code, _, errs := commandLine(t, []string{"HOME=" + folder}, "serve", "--config", file, "--root", filepath.Join(folder, "root"), "--listen", "127.0.0.1:0")
		if code == 0 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: %d %q, want %q", name, code, errs, c.want)
		}
	}
}

func TestClash(t *testing.T) {
	for _, c := range []struct {
		one, other string
		want       bool
	}{
		{":1", "127.0.0.1:1", true}, {"0.0.0.0:1", "10.0.0.7:1", true}, {"[::]:1", ":1", true}, {"10.0.0.7:1", "10.0.0.7:1", true},
		{"127.0.0.1:1", "10.0.0.7:1", false}, {":1", ":2", false}, {":0", ":0", false}, {"", ":1", false},
	} {
		if clash(c.one, c.other) != c.want || clash(c.other, c.one) != c.want {
			t.Errorf("%q and %q: want %v", c.one, c.other, c.want)
		}
	}
}

// TestACertificateThatNobodyWillTakeIsTold: the daemon serves with it, for the clock may be what is wrong.
func TestACertificateThatNobodyWillTakeIsTold(t *testing.T) {
	folder := t.TempDir()
	ca := newAuthority(t, folder)
	ca.sign("late", &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "late"}, NotAfter: time.Now().Add(-time.Hour)})
	for name, want := range map[string]bool{"late": true, "ca": false} {
		var log bytes.Buffer
		if _, err := openTLS(TLSSettings{CertFile: filepath.Join(folder, name+".pem"), KeyFile: filepath.Join(folder, name+".key")}, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "level=WARN"); got != want {
			t.Errorf("%s: the log says %q", name, &log)
		}
	}
}

// TestWhoAdministratesAnotherMachineMayLookAtThisOne: the variable that names the other one is not a setting of a daemon here.
func TestWhoAdministratesAnotherMachineMayLookAtThisOne(t *testing.T) {
	environ := []string{"HOME=" + t.TempDir(), "IMAGECACHE_ADMIN=https://cache.example:5051"}
	code, out, errs := commandLine(t, environ, "config")
	if code != 0 || !strings.Contains(errs, "is for the commands that ask a daemon") || strings.Contains(out, "cache.example") {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

func TestEachRuleIsShownOnALineOfItsOwn(t *testing.T) {
	environ := []string{"HOME=" + t.TempDir(), "IMAGECACHE_ACCESS_RULES=* pull local/**; user:ann admin"}
	_, out, _ := commandLine(t, environ, "config")
	for line := range strings.Lines(out) {
		if strings.Contains(line, "access.rules") && strings.Contains(line, ";") {
			t.Errorf("two rules on a line: %s", line)
		}
	}
	if strings.Count(out, "access.rules") != 2 {
		t.Error(out)
	}
}
