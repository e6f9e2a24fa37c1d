package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxConns is how many connections to one host are open at once. More
	// waits: a registry that is asked by a whole fleet's pulls at one time
	// should not see as many sockets.
	maxConns = 48
	// maxBodies is how many of them may be bringing blobs. The others are for
	// short questions, which must not wait for layers that come slowly.
	maxBodies = 32
	// readBuffer is 64 KiB: fewer read calls for each layer.
	readBuffer = 64 << 10
	idleConn   = 60 * time.Second
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// newNetwork makes the connections to one upstream and to where it sends us.
func newNetwork(base *url.URL, caFile string, env upstreamEnv) (*http.Transport, error) {
	roots, err := trusted(caFile)
	if err != nil {
		return nil, err
	}
	guard := &dialGuard{base: base, timeout: env.dialTimeout}
	dial := env.dial
	if dial == nil {
		dial = guard.dial
	}
	return &http.Transport{
		Proxy:                 guard.proxy,
		DialContext:           dial,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   env.tlsTimeout,
		ResponseHeaderTimeout: env.headerTimeout,
		IdleConnTimeout:       idleConn,
		MaxIdleConnsPerHost:   maxConns,
		MaxConnsPerHost:       maxConns,
		ReadBufferSize:        readBuffer,
		DisableCompression:    true, // bytes are what the digest is of
		ForceAttemptHTTP2:     true, // which an own dialler would turn off
	}, nil
}

// afresh is the same way for those who want a connection of their own.
func afresh(network *http.Transport) *http.Transport {
	fresh := network.Clone()
	fresh.DisableKeepAlives = true
	return fresh
}

// trusted returns the system's certificates and those of the file, nil
// without one.
func trusted(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file: %s holds no certificate in PEM form", caFile)
	}
	return roots, nil
}

// dialGuard refuses to connect to this machine's own neighbourhood on behalf
// of a foreign host: an upstream that redirects, or names a token service,
// could otherwise make us ask a metadata service or a daemon here. It looks at
// the address that a name resolved to.
type dialGuard struct {
	base    *url.URL
	timeout time.Duration
	proxies sync.Map // host:port of the proxies that the environment names, which the operator chose
}

func (g *dialGuard) proxy(req *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(req)
	if proxy != nil {
		g.proxies.Store(authority(proxy), true)
	}
	return proxy, err
}

func (g *dialGuard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: g.timeout}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	_, chosen := g.proxies.Load(strings.ToLower(address))
	if !chosen && !sameHost(host, g.base.Hostname()) {
		dialer.Control = func(_, resolved string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return err
			}
			return g.permits(addr.Addr())
		}
	}
	return dialer.DialContext(ctx, network, address)
}

func (g *dialGuard) permits(addr netip.Addr) error {
	if reason := offLimits(addr, isLoopback(g.base.Hostname())); reason != "" {
		return &Error{Code: CodeUnavailable, Message: fmt.Sprintf("upstream leads to %s, %s, which is refused", addr, reason), final: true}
	}
	return nil
}

// metadata is where the machines of clouds find their own credentials, as far
// as that is not a link-local address: Amazon, Google, Alibaba, Azure, Oracle.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254"), netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("192.0.0.192"),
}

// carriers are IPv6 networks whose addresses carry an IPv4 address that they
// lead to, and where in the address it stands: NAT64 (RFC 6052), 6to4 (RFC
// 3056), and IPv4-compatible ones (RFC 4291).
var carriers = []struct {
	network netip.Prefix
	at      int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("2002::/16"), 2}, {netip.MustParsePrefix("::/96"), 12},
}

// carried is the IPv4 address that addr leads to, or addr itself.
func carried(addr netip.Addr) netip.Addr {
	for _, c := range carriers {
		if b := addr.As16(); addr.Is6() && c.network.Contains(addr) && !addr.IsUnspecified() && !addr.IsLoopback() {
			return netip.AddrFrom4([4]byte(b[c.at : c.at+4]))
		}
	}
	return addr
}

// offLimits says why a foreign host must not be at addr, or "".
func offLimits(addr netip.Addr, loopbackToo bool) string {
	addr = carried(addr.Unmap().WithZone(""))
	switch {
	case addr.IsLinkLocalUnicast(), addr.IsLinkLocalMulticast():
		return "a link-local address"
	case slices.Contains(metadata, addr):
		return "a cloud's metadata service"
	case addr.IsUnspecified(), addr.Is4() && addr.As4()[0] == 0:
		return "an unspecified address"
	case addr.IsLoopback() && !loopbackToo:
		return "this machine"
	}
	return ""
}

// redirects is how far we follow an upstream.
type redirects struct{ base *url.URL }

// check is an [http.Client]'s CheckRedirect. No redirect carries our
// credential, for only requests to the upstream itself are signed.
func (r redirects) check(req *http.Request, via []*http.Request) error {
	// It would tell the next host the address of this one, signature included.
	req.Header.Del("Referer")
	refuse := func(format string, values ...any) error {
		return &Error{Code: CodeUnavailable, Message: "upstream redirects " + fmt.Sprintf(format, values...), final: true}
	}
	to := req.URL
	switch {
	case len(via) > maxRedirects:
		return refuse("more than %d times", maxRedirects)
	case to.Scheme != "https" && to.Scheme != "http":
		return refuse("to the scheme %q", plain(to.Scheme))
	case to.Scheme == "http" && r.base.Scheme == "https":
		return refuse("from https to http, which is refused")
	case to.User != nil:
		return refuse("to an address with a user in it, which is refused")
	}
	addr, isIP := ipLiteral(to.Hostname())
	if isLoopback(to.Hostname()) && !isIP {
		addr, isIP = netip.IPv6Loopback(), true
	}
	if isIP && !sameHost(to.Hostname(), r.base.Hostname()) {
		if reason := offLimits(addr, isLoopback(r.base.Hostname())); reason != "" {
			return refuse("to %s, which is refused", reason)
		}
	}
	return nil
}

// authority is the host and port of an address, the default port spelled out.
func authority(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(hostname(u.Hostname()), port)
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && authority(a) == authority(b) }

// hostname brings a name into the form to compare.
func hostname(s string) string {
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// sameHost compares names, and addresses in whatever form they are written.
func sameHost(a, b string) bool {
	if hostname(a) == hostname(b) {
		return true
	}
	x, okX := ipLiteral(a)
	y, okY := ipLiteral(b)
	return okX && okY && x == y
}

func isLoopback(host string) bool {
	host = hostname(host)
	addr, ok := ipLiteral(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || (ok && addr.IsLoopback())
}

// withoutAddress strips an error of addresses, whose query may be a signature:
// of the one that net/http puts before it, and of those that it quotes, as it
// does a Location that it cannot read.
func withoutAddress(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	if text := err.Error(); strings.Contains(text, "?") {
		return &shortened{text: queries.ReplaceAllString(text, "?…"), err: err}
	}
	return err
}

// queries are those of addresses, and whatever stands behind them up to a quote.
var queries = regexp.MustCompile(`\?[^"']*`)

// shortened is an error whose text was stripped.
type shortened struct {
	text string
	err  error
}

func (s *shortened) Error() string { return s.text }

// Is and As look through, but nobody gets the error itself to print.
func (s *shortened) Is(target error) bool { return errors.Is(s.err, target) }

// Timeout tells what the error told.
func (s *shortened) Timeout() bool {
	var slow interface{ Timeout() bool }
	return errors.As(s.err, &slow) && slow.Timeout()
}
