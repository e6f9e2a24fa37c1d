package registry

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/publicsuffix"
)

// realm is a token service that an upstream named, after we decided on it.
type realm struct {
	url     *url.URL
	trusted bool // it may get our credential
}

// judgeRealm decides whether we go to the token service that the upstream at
// base names, and whether with our credential. An upstream can name any host,
// so the credential goes only to a host of the same owner: the same name or
// address on any port, or a name under the same registrable domain. Other
// public hosts are asked anonymously, over https. Addresses and local names
// that are not the upstream's own are not asked at all.
func judgeRealm(base *url.URL, address string) (realm, *Error) {
	refuse := func(why string) (realm, *Error) {
		return realm{}, &Error{Code: CodeUnauthorized, Message: "upstream names a token service that is refused: " + why}
	}
	u, err := url.Parse(address)
	switch {
	case err != nil, u.Hostname() == "":
		return refuse("its address cannot be read")
	case u.Scheme != "https" && u.Scheme != "http":
		return refuse("its scheme is neither https nor http")
	case u.User != nil:
		return refuse("its address holds a user")
	case u.Scheme == "http" && base.Scheme == "https":
		return refuse("it is plain http while upstream is https")
	}
	u.Fragment = ""
	host, own := u.Hostname(), base.Hostname()
	if sameHost(host, own) || sameDomain(host, own) {
		return realm{url: u, trusted: true}, nil
	}
	if u.Scheme != "https" {
		return refuse("it is on another host and not https")
	}
	if !publicName(host) {
		return refuse(fmt.Sprintf("%s is another host and not a public name", quoted(host)))
	}
	return realm{url: u}, nil
}

// sameDomain reports whether one registrant owns both names, as browsers
// decide it for cookies.
func sameDomain(a, b string) bool {
	if !isName(a) || !isName(b) {
		return false
	}
	x, errX := publicsuffix.EffectiveTLDPlusOne(hostname(a))
	y, errY := publicsuffix.EffectiveTLDPlusOne(hostname(b))
	return errX == nil && errY == nil && x == y
}

// isName reports whether host is a name rather than an address. Names beyond
// ASCII do not count: they are mapped on their way to the network, and what they
// become is not what was judged.
func isName(host string) bool {
	for _, r := range host {
		if r == ':' || r > unicode.MaxASCII {
			return false
		}
	}
	_, isIP := ipLiteral(host)
	return !isIP
}

// publicName reports whether host is a name under a suffix of the public
// suffix list, so that it is not one of a local network.
func publicName(host string) bool {
	host = hostname(host)
	if !isName(host) || isLoopback(host) {
		return false
	}
	suffix, icann := publicsuffix.PublicSuffix(host)
	return suffix != host && (icann || strings.Contains(suffix, "."))
}

// ipLiteral reads an address in every form that Go's dialler takes for one,
// the old ones of inet_aton ("127.1", "0x7f000001") included, so that none
// slips past as a name.
func ipLiteral(host string) (netip.Addr, bool) {
	host, _, _ = strings.Cut(strings.TrimSuffix(host, "."), "%")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap(), true
	}
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, part := range parts {
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts)) // the last part fills what remains
		}
		n, err := strconv.ParseUint(part, 0, bits)
		if err != nil {
			return netip.Addr{}, false
		}
		value = value<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}
