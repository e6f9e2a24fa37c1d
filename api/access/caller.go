package access

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	kindUser        = "user"
	kindOIDC        = "oidc"
	kindGroup       = "group"
	kindCertificate = "certificate"

	// Anonymous is the name of who has shown nothing.
	Anonymous = "anonymous"

	// maxName bounds what a credential may call its bearer, in bytes: each
	// request compares it with patterns, and each line of the log tells it.
	maxName = 1024
)

// Caller is who asks.
type Caller struct {
	Name   string   // "anonymous", or kind and name: "user:ann"
	Groups []string // that an issuer, or an authority in a certificate, says it is in

	// until is when the credential that was shown ends; zero: it does not.
	until time.Time
}

var nobody = Caller{Name: Anonymous}

// Known reports whether the caller has shown who it is.
func (c Caller) Known() bool { return c.Name != Anonymous && c.Name != "" }

// byCertificate is the caller that a verified client certificate names. The
// error says why it names none.
func byCertificate(cert *x509.Certificate, now time.Time) (Caller, error) {
	name := nameOf(cert)
	switch {
	case now.After(cert.NotAfter): // it was good when the connection was made
		return Caller{}, errors.New("the certificate has expired")
	case name == "":
		return Caller{}, errors.New("the certificate names nobody: it has no SPIFFE id, no DNS name and no common name")
	case len(name) > maxName:
		return Caller{}, fmt.Errorf("the certificate's name is longer than %d bytes", maxName)
	}
	return Caller{Name: kindCertificate + ":" + name, Groups: cert.Subject.Organization, until: cert.NotAfter}, nil
}

// nameOf is what a certificate calls its bearer: the SPIFFE id, of which there
// is one at most and beside which nothing else identifies (SPIFFE, "X.509-SVID",
// section 2); else the first DNS name; else the common name, as kubelets have it.
func nameOf(cert *x509.Certificate) string {
	for _, uri := range cert.URIs {
		if uri.Scheme == "spiffe" {
			return uri.String()
		}
	}
	if len(cert.DNSNames) > 0 {
		return cert.DNSNames[0]
	}
	return cert.Subject.CommonName
}

// ParseCaller takes a caller as an operator describes one: what it is called,
// and groups it is in, parted by commas, as in "oidc:ann,group:dev".
func ParseCaller(text string) (Caller, error) {
	var c Caller
	for said := range strings.SplitSeq(text, ",") {
		kind, name, _ := strings.Cut(said, ":")
		switch {
		case said != Anonymous && (name == "" || !slices.Contains(kinds, kind)):
			return Caller{}, fmt.Errorf("%q is no caller: want anonymous, or one of user:, oidc:, group: and certificate: with a name", said)
		case kind == kindGroup:
			c.Groups = append(c.Groups, name)
		case c.Name != "":
			return Caller{}, fmt.Errorf("%q and %q are two callers: besides one, only groups may be named", c.Name, said)
		default:
			c.Name = said
		}
	}
	if c.Name == "" {
		c.Name = kindGroup + ":" // some member of them, whose name no rule knows
	}
	return c, nil
}
