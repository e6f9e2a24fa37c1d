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

// tokenServices are those of well-known registries whose token service is at
// another host, which is neither theirs nor below it.
var tokenServices = map[string]string{
	"registry-1.docker.io":      "auth.docker.io",
	"index.docker.io":           "auth.docker.io",
	"registry.gitlab.com":       "gitlab.com",
	"registry.digitalocean.com": "api.digitalocean.com",
}

// judgeRealm decides whether we go to the token service that the upstream at
// base names, and whether with our credential. An upstream can name any host,
// and who is let write one tenant's answers shall not get another's password.
// So the credential goes only to the upstream's own name or address, on any
// port, to a name below it, to the known service of a well-known registry, and to
// hosts that the operator vouches for. Other public hosts are asked
// anonymously, over https. Other addresses and local names are not asked at all.
func judgeRealm(base *url.URL, address string, vouched []string) (realm, *Error) {
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
	if sameHost(host, own) || below(host, own) || tokenServices[hostname(own)] == hostname(host) || vouchedFor(u, vouched) {
		return realm{url: u, trusted: true}, nil
	}
	if u.Scheme != "https" {
		return refuse("it is on another host and not https; token_hosts can name it")
	}
	if !publicName(host) {
		return refuse(fmt.Sprintf("%s is another host and not a public name; token_hosts can name it", quoted(host)))
	}
	return realm{url: u}, nil
}

// below reports whether a name is one below another, whose owner gave it away.
func below(name, above string) bool {
	return isName(name) && isName(above) && strings.HasSuffix(hostname(name), "."+hostname(above))
}

// vouchedFor reports whether the operator named the host, with its port where it
// has one there.
func vouchedFor(u *url.URL, hosts []string) bool {
	for _, h := range hosts {
		named := &url.URL{Scheme: u.Scheme, Host: h}
		if named.Port() == "" && sameHost(named.Hostname(), u.Hostname()) || named.Port() != "" && authority(named) == authority(u) {
			return true
		}
	}
	return false
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
