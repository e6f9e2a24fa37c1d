// Package api answers HTTP: the read side of the OCI distribution
// specification 1.1 below /v2/ ([Server.Mirror]), the administration below
// /api/v1/ ([Server.Admin], and behind a gate [Server.RemoteAdmin]), metrics
// and health on all. openapi.yaml describes the administration.
//
// One request goes this way: the path is parsed once into a typed request
// (path.go); a handler asks the registry and writes what it was given, or
// returns an error; one function (errors.go) turns an error into a status
// and an OCI error body; the record (record.go) counts it and writes one
// access line. No other package knows a status code.
//
// The bytes of a blob are sent by the kernel, from the file of the sealed
// blob or from the part of a flight's file that is readable (body.go).
//
// The package is not responsible for who listens where, for TLS, nor for the
// deadlines of connections that send no request: whoever owns the
// [net/http.Server] sets ReadHeaderTimeout and IdleTimeout. A WriteTimeout
// must not be set, because it would cut long blobs; the package gives each
// write its own deadline.
package api
