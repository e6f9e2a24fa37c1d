package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/imagecache/imagecache/api/access"
)

// Tables of who may what, and of how callers reach us.
const (
	tlsTable    = "tls"
	accessTable = "access"
)

// AccessSettings say who callers are and what they may.
type AccessSettings struct {
	HtpasswdFile string
	Issuers      []access.IssuerOptions
	Rules        access.Rules
	TokenURL     string
	// Requests a second and at once of one caller; 0: as many as it likes.
	Rate, AtOnce int
	Connections  int    // of one address; 0: as many as there is room for
	AdminListen  string // host:port of the administration over the network; "": none
}

// TLSSettings are of the mirror; without a certificate it speaks plain http.
type TLSSettings struct{ CertFile, KeyFile, ClientCAFile string }

// listKeys hold several values: a list of texts in the file, one text parted by ; elsewhere.
var listKeys = []string{"access.issuers", "access.rules"}

// countKeys are plain numbers, which need no quotes.
var countKeys = []string{"access.requests_per_second", "access.requests_at_once", "access.connections_at_once"}

const listMark = ";"

func splitList(value string) (all []string) {
	for part := range strings.SplitSeq(value, listMark) {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

// accessKeys lists the settings of the tables [tls] and [access].
func accessKeys() []scalarKey {
	return []scalarKey{
		{"tls.cert_file", "certificate of the mirror, a PEM `FILE` that is read again when it changes", textSetter(func(s *Settings) *string { return &s.TLS.CertFile }),
			func(s *Settings) string { return s.TLS.CertFile }},
		{"tls.key_file", "key of that certificate, a PEM `FILE`", textSetter(func(s *Settings) *string { return &s.TLS.KeyFile }),
			func(s *Settings) string { return s.TLS.KeyFile }},
		{"tls.client_ca_file", "who signs the certificates of clients, a PEM `FILE`; a client without one is anonymous", textSetter(func(s *Settings) *string { return &s.TLS.ClientCAFile }),
			func(s *Settings) string { return s.TLS.ClientCAFile }},
		{"access.htpasswd_file", "users and bcrypt hashes, a `FILE` that is read again when it changes", textSetter(func(s *Settings) *string { return &s.Access.HtpasswdFile }),
			func(s *Settings) string { return s.Access.HtpasswdFile }},
		{"access.issuers", "OpenID Connect issuers whose tokens are taken, as in https://login.example audience=imagecache", setIssuers, showIssuers},
		{"access.rules", "who may what, as in \"user:ann,group:dev pull,push local/team/**\"; parted by ;", setRules,
			func(s *Settings) string { return showRules(s.Access.Rules) }},
		{"access.token_url", "`URL` at which clients get tokens, where a proxy stands in front", setTokenURL, func(s *Settings) string { return s.Access.TokenURL }},
		{"access.requests_per_second", "`N` of one caller, and ten times as many in a burst; 0: no limit", countSetter(func(s *Settings) *int { return &s.Access.Rate }),
			func(s *Settings) string { return strconv.Itoa(s.Access.Rate) }},
		{"access.requests_at_once", "`N` of one caller; 0: no limit", countSetter(func(s *Settings) *int { return &s.Access.AtOnce }),
			func(s *Settings) string { return strconv.Itoa(s.Access.AtOnce) }},
		{"access.connections_at_once", "`N` of one address, of which a proxy in front is one; 0: as many as there is room for", countSetter(func(s *Settings) *int { return &s.Access.Connections }),
			func(s *Settings) string { return strconv.Itoa(s.Access.Connections) }},
		{adminListenKey, "`ADDRESS` of the administration over the network, host:port; it needs [tls] and a rule with the verb admin", setAdminListen,
			func(s *Settings) string { return s.Access.AdminListen }},
	}
}

func textSetter(field func(*Settings) *string) func(*Settings, string) error {
	return func(s *Settings, value string) error {
		*field(s) = value
		return nil
	}
}

func countSetter(field func(*Settings) *int) func(*Settings, string) error {
	return func(s *Settings, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a number", value)
		}
		*field(s) = n
		return nil
	}
}

func setTokenURL(s *Settings, value string) error {
	u, err := url.Parse(value)
	if value != "" && (err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http")) {
		return fmt.Errorf("%q is not a url: want one such as https://cache.example/token", value)
	}
	s.Access.TokenURL = value
	return nil
}

func setAdminListen(s *Settings, value string) error {
	if value != "" {
		if _, _, err := splitHostPort(value); err != nil {
			return err
		}
	}
	s.Access.AdminListen = value
	return nil
}

// setRules takes "who[,who…] verb[,verb…] repository[,repository…]", several parted by ;.
func setRules(s *Settings, value string) error {
	var rules access.Rules
	for _, text := range splitList(value) {
		words := strings.Fields(text)
		if len(words) < 2 || len(words) > 3 {
			return fmt.Errorf("%q is not a rule: want who, what and where, as in \"user:ann,group:dev pull,push local/team/**\", with no space behind a comma", text)
		}
		rule := access.Rule{Who: strings.Split(words[0], ",")}
		for verb := range strings.SplitSeq(words[1], ",") {
			rule.May = append(rule.May, access.Verb(verb))
		}
		if len(words) == 3 {
			rule.Repositories = strings.Split(words[2], ",")
		}
		if err := (access.Rules{rule}).Check(); err != nil {
			return fmt.Errorf("%q: %w", text, errors.Unwrap(err))
		}
		rules = append(rules, rule)
	}
	s.Access.Rules = rules
	return nil
}

func showRules(rules access.Rules) string {
	texts := make([]string, len(rules))
	for i, rule := range rules {
		texts[i] = rule.String()
	}
	return strings.Join(texts, listMark+" ")
}

// issuerFields are what may stand behind an issuer's url, in the order in which it is shown.
var issuerFields = []issuerField{
	{"audience", func(o *access.IssuerOptions) *string { return &o.Audience }},
	{"username", func(o *access.IssuerOptions) *string { return &o.UsernameClaim }},
	{"groups", func(o *access.IssuerOptions) *string { return &o.GroupsClaim }},
	{"prefix", func(o *access.IssuerOptions) *string { return &o.Prefix }},
	{"ca_file", func(o *access.IssuerOptions) *string { return &o.CAFile }},
	{"keys_file", func(o *access.IssuerOptions) *string { return &o.KeysFile }},
}

type issuerField struct {
	name  string
	field func(*access.IssuerOptions) *string
}

// setIssuers takes "URL audience=A [username=CLAIM] [groups=CLAIM] [prefix=TEXT] [ca_file=FILE] [keys_file=FILE]", several parted by ;.
func setIssuers(s *Settings, value string) error {
	var issuers []access.IssuerOptions
	for _, text := range splitList(value) {
		issuer, err := parseIssuer(text)
		if err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
		issuers = append(issuers, issuer)
	}
	s.Access.Issuers = issuers
	return nil
}

func parseIssuer(text string) (access.IssuerOptions, error) {
	words := strings.Fields(text)
	issuer := access.IssuerOptions{URL: words[0]}
	for _, word := range words[1:] {
		name, said, _ := strings.Cut(word, "=")
		i := slices.IndexFunc(issuerFields, func(f issuerField) bool { return f.name == name })
		if i < 0 || said == "" {
			return issuer, fmt.Errorf("want audience=, username=, groups=, prefix=, ca_file= or keys_file= behind the issuer's url, not %q", word)
		}
		*issuerFields[i].field(&issuer) = said
	}
	u, err := url.Parse(issuer.URL)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || issuer.Audience == "":
		return issuer, errors.New("want an issuer's url and an audience, as in https://login.example audience=imagecache")
	case u.Scheme == "http" && issuer.KeysFile == "" && !isLoopbackHost(u.Hostname()):
		return issuer, errors.New("its keys would cross the network in the clear, where others could stand in their place: want https")
	}
	return issuer, nil
}

func isLoopbackHost(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

func showIssuers(s *Settings) string {
	texts := make([]string, len(s.Access.Issuers))
	for i, o := range s.Access.Issuers {
		words := []string{o.URL}
		for _, f := range issuerFields {
			if said := *f.field(&o); said != "" {
				words = append(words, f.name+"="+said)
			}
		}
		texts[i] = strings.Join(words, " ")
	}
	return strings.Join(texts, listMark+" ")
}

// gate is who may what, by these settings.
func (s *Settings) gate(log *slog.Logger) (*access.Gate, error) {
	gate, err := access.New(access.Options{
		HtpasswdFile: s.Access.HtpasswdFile, Issuers: s.Access.Issuers, Rules: s.Access.Rules, TokenURL: s.Access.TokenURL,
		Certificates: s.TLS.ClientCAFile != "", Rate: s.Access.Rate, AtOnce: s.Access.AtOnce, Log: log,
	})
	return gate, s.fileFault(err)
}
