package access

import "crypto/x509"

const (
	kindUser        = "user"
	kindOIDC        = "oidc"
	kindGroup       = "group"
	kindCertificate = "certificate"

	// Anonymous is the name of who has shown nothing.
	Anonymous = "anonymous"
)

// Caller is who asks.
type Caller struct {
	Name   string   // "anonymous", or kind and name: "user:ann"
	Groups []string // that an issuer says it is in
}

var nobody = Caller{Name: Anonymous}

// Known reports whether the caller has shown who it is.
func (c Caller) Known() bool { return c.Name != Anonymous && c.Name != "" }

// byCertificate is the caller that a verified client certificate names: by its
// first DNS name, else by its common name, as kubelets and proxies have it.
func byCertificate(cert *x509.Certificate) (Caller, bool) {
	name := cert.Subject.CommonName
	if len(cert.DNSNames) > 0 {
		name = cert.DNSNames[0]
	}
	return Caller{Name: kindCertificate + ":" + name, Groups: cert.Subject.Organization}, name != ""
}
