package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Login is what is shown to an upstream, in one of three ways: a name with a
// file that holds the password (read again when it changes); a helper
// ("ecr-login" runs docker-credential-ecr-login); or a client of an OAuth2 service
// that gives tokens for it (RFC 6749 section 4.4). The zero Login is none.
type Login struct {
	Username, PasswordFile string
	CredentialHelper       string

	// The token that ClientID and the secret get at TokenURL is shown as a
	// bearer token, or as the password of Username where that is set too.
	ClientID, ClientSecretFile string
	TokenURL                   string
	Scope                      string // asked for at TokenURL; may be empty
}

func (l Login) empty() bool { return l == Login{} }

// Check finds ways that exclude each other, or that lack something.
func (l Login) Check() error {
	client := l.ClientID != "" || l.ClientSecretFile != "" || l.TokenURL != "" || l.Scope != ""
	switch {
	case l.CredentialHelper != "" && (l.Username != "" || l.PasswordFile != ""):
		return errors.New("credential_helper and username exclude each other")
	case l.CredentialHelper != "" && client:
		return errors.New("credential_helper and client_id exclude each other")
	case client && l.PasswordFile != "":
		return errors.New("password_file and client_id exclude each other")
	case client && (l.ClientID == "" || l.ClientSecretFile == "" || l.TokenURL == ""):
		return errors.New("client_id, client_secret_file and token_url need each other")
	case !client && (l.Username == "") != (l.PasswordFile == ""):
		return errors.New("username and password_file need each other")
	}
	return nil
}

// Account is the login for some repositories of an upstream.
type Account struct {
	// Repositories are those for which it is: a path as path.Match reads
	// patterns ("team-a/*"), or one that ends in /** for all below.
	Repositories string
	Login
}

// Check finds what is wrong with an account.
func (a Account) Check() error {
	pattern := strings.TrimSuffix(a.Repositories, "/**")
	_, err := path.Match(pattern, "")
	switch {
	case a.Repositories == "":
		return errors.New("an account has no repositories")
	case err != nil, strings.Contains(pattern, "**"), strings.HasPrefix(pattern, "/"):
		return fmt.Errorf("the account of %q: not a pattern of repositories such as team-a/* or team-a/**", a.Repositories)
	case a.empty():
		return fmt.Errorf("the account of %q has no login", a.Repositories)
	}
	if err := a.Login.Check(); err != nil {
		return fmt.Errorf("the account of %q: %w", a.Repositories, err)
	}
	return nil
}

// fits reports whether it is for a repository.
func (a Account) fits(repository string) bool {
	above, all := strings.CutSuffix(a.Repositories, "/**")
	if !all {
		ok, _ := path.Match(a.Repositories, repository)
		return ok
	}
	depth := strings.Count(above, "/") + 1
	parts := strings.SplitN(repository, "/", depth+1)
	if len(parts) <= depth {
		return false
	}
	ok, _ := path.Match(above, strings.Join(parts[:depth], "/"))
	return ok
}

// Login is that for the repositories without an account.
func (o UpstreamOptions) Login() Login {
	return Login{Username: o.Username, PasswordFile: o.PasswordFile, CredentialHelper: o.CredentialHelper,
		ClientID: o.ClientID, ClientSecretFile: o.ClientSecretFile, TokenURL: o.TokenURL, Scope: o.Scope}
}

// SetLogin sets what Login tells.
func (o *UpstreamOptions) SetLogin(l Login) {
	o.Username, o.PasswordFile, o.CredentialHelper = l.Username, l.PasswordFile, l.CredentialHelper
	o.ClientID, o.ClientSecretFile, o.TokenURL, o.Scope = l.ClientID, l.ClientSecretFile, l.TokenURL, l.Scope
}

func (o UpstreamOptions) hasLogin() bool { return !o.Login().empty() || len(o.Accounts) > 0 }

// accounts chooses the credential by the repository that is asked for, which
// stands in the context as its way.
type accounts struct {
	of     []Account
	keys   []credentialSource // of each
	others credentialSource
}

// newCredentials chooses the source that the options name.
func newCredentials(o UpstreamOptions, base *url.URL, env upstreamEnv) (credentialSource, error) {
	others, err := newLogin(o.Login(), o, base, env)
	if err != nil || len(o.Accounts) == 0 {
		return others, err
	}
	a := &accounts{of: o.Accounts, others: others}
	for _, account := range o.Accounts {
		if err := account.Check(); err != nil {
			return nil, err
		}
		keys, err := newLogin(account.Login, o, base, env)
		if err != nil {
			return nil, fmt.Errorf("the account of %q: %w", account.Repositories, err)
		}
		a.keys = append(a.keys, keys)
	}
	return a, nil
}

func (a *accounts) credential(ctx context.Context, renew bool) (authn.AuthConfig, error) {
	return a.choose(ctx).credential(ctx, renew)
}

// choose takes the longest pattern that fits, of two the first.
func (a *accounts) choose(ctx context.Context) credentialSource {
	w, _ := ctx.Value(wayKey{}).(*way)
	chosen, length := a.others, 0
	for i, account := range a.of {
		if w != nil && len(account.Repositories) > length && account.fits(w.repository) {
			chosen, length = a.keys[i], len(account.Repositories)
		}
	}
	return chosen
}
