package main

import (
	"errors"
	"fmt"
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
	AdminListen  string // host:port of the administration over the network; "": none
}

// TLSSettings are of the mirror; without a certificate it speaks plain http.
type TLSSettings struct{ CertFile, KeyFile, ClientCAFile string }

// listKeys hold several values: a list of texts in the file, one text parted by ; elsewhere.
var listKeys = []string{"access.issuers", "access.rules"}

// countKeys are plain numbers, which need no quotes.
var countKeys = []string{"access.requests_per_second", "access.requests_at_once"}

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
		{"access.admin_listen", "`ADDRESS` of the administration over the network, host:port; it needs [tls] and a rule with the verb admin", setAdminListen,
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
			return fmt.Errorf("%q is not a number of requests", value)
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
			return fmt.Errorf("%q is not a rule: want who, what and where, as in \"user:ann pull,push local/team/**\"", text)
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
		verbs := make([]string, len(rule.May))
		for i, verb := range rule.May {
			verbs[i] = string(verb)
		}
		texts[i] = strings.TrimSpace(strings.Join([]string{strings.Join(rule.Who, ","), strings.Join(verbs, ","), strings.Join(rule.Repositories, ",")}, " "))
	}
	return strings.Join(texts, listMark+" ")
}

// setIssuers takes "URL audience=A [username=CLAIM] [groups=CLAIM] [ca_file=FILE]", several parted by ;.
func setIssuers(s *Settings, value string) error {
	var issuers []access.IssuerOptions
	for _, text := range splitList(value) {
		words := strings.Fields(text)
		issuer := access.IssuerOptions{URL: words[0]}
		fields := map[string]*string{"audience": &issuer.Audience, "username": &issuer.UsernameClaim, "groups": &issuer.GroupsClaim, "ca_file": &issuer.CAFile}
		for _, word := range words[1:] {
			name, said, ok := strings.Cut(word, "=")
			if !ok || fields[name] == nil || said == "" {
				return fmt.Errorf("%q: want audience=, username=, groups= or ca_file= behind the issuer's url, not %q", text, word)
			}
			*fields[name] = said
		}
		if u, err := url.Parse(issuer.URL); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || issuer.Audience == "" {
			return fmt.Errorf("%q is not an issuer: want its url and an audience, as in https://login.example audience=imagecache", text)
		}
		issuers = append(issuers, issuer)
	}
	s.Access.Issuers = issuers
	return nil
}

func showIssuers(s *Settings) string {
	texts := make([]string, len(s.Access.Issuers))
	for i, o := range s.Access.Issuers {
		words := []string{o.URL, "audience=" + o.Audience}
		for name, said := range map[string]string{"username": o.UsernameClaim, "groups": o.GroupsClaim, "ca_file": o.CAFile} {
			if said != "" {
				words = append(words, name+"="+said)
			}
		}
		texts[i] = strings.Join(words, " ")
	}
	return strings.Join(texts, listMark+" ")
}

// checkAccess checks what no single value shows.
func (s *Settings) checkAccess() error {
	switch {
	case (s.TLS.CertFile == "") != (s.TLS.KeyFile == ""):
		return errors.New("tls: cert_file and key_file go together")
	case s.TLS.ClientCAFile != "" && s.TLS.CertFile == "":
		return errors.New("tls: client_ca_file is of no use without cert_file and key_file")
	case (s.Access.HtpasswdFile != "" || len(s.Access.Issuers) > 0) && len(s.Access.Rules) == 0:
		return errors.New("access: callers can sign in, but no rule says what they may: add rules")
	case s.Access.HtpasswdFile != "" && s.TLS.CertFile == "" && s.Access.TokenURL == "" && !s.openByDefault():
		return errors.New("access: passwords would cross the network in the clear: add [tls], or token_url where a proxy in front speaks TLS")
	}
	return s.checkAdminListen()
}

// checkAdminListen refuses to be administered over the network by nobody in particular.
func (s *Settings) checkAdminListen() error {
	admin := func(r access.Rule) bool { return slices.Contains(r.May, access.Admin) }
	switch {
	case s.Access.AdminListen == "":
	case s.TLS.CertFile == "":
		return errors.New("access: admin_listen needs TLS: add [tls] with cert_file and key_file")
	case !slices.ContainsFunc(s.Access.Rules, admin):
		return errors.New("access: admin_listen needs a rule that says who may administrate, as in rules = [\"user:ann admin\"]")
	case s.Access.HtpasswdFile == "" && len(s.Access.Issuers) == 0 && s.TLS.ClientCAFile == "":
		return errors.New("access: admin_listen needs callers who can show who they are: add htpasswd_file, issuers, or client_ca_file in [tls]")
	}
	return nil
}

// gate is who may what, by these settings.
func (s *Settings) gate() (*access.Gate, error) {
	if err := s.checkAccess(); err != nil {
		return nil, err
	}
	return access.New(access.Options{
		HtpasswdFile: s.Access.HtpasswdFile, Issuers: s.Access.Issuers, Rules: s.Access.Rules, TokenURL: s.Access.TokenURL,
		Certificates: s.TLS.ClientCAFile != "", Rate: s.Access.Rate, AtOnce: s.Access.AtOnce,
	})
}
