package api

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/imagecache/imagecache/api/access"
)

const (
	// maxTokenForm bounds the body of a question for a token, in bytes; a
	// token that is shown in it is bounded besides.
	maxTokenForm = 64 << 10
	// tokenFormWait is how long such a body may take to come.
	tokenFormWait = 10 * time.Second
)

// token gives who asks a token that says who it is: to nobody in particular,
// too, for clients that take one before they ask for anything. It is asked for
// in both of docker's ways: by GET with a login in the header, and by POST with
// one in a form, OAuth2's. The account of the first and the client_id of the
// second tell nothing that was not shown. No refresh tokens are given: they
// would have to outlive us, and what clients keep of a login in their place
// does.
func (s *Server) token(w *record, r *http.Request) error {
	if !s.gate.SignsIn() {
		return errNoEndpoint
	}
	asked := r.URL.Query()
	switch r.Method {
	case http.MethodGet:
	case http.MethodPost:
		form, err := readTokenForm(w, r)
		if err != nil {
			return err
		}
		if err := showGrant(r, form); err != nil {
			return err
		}
		asked = form
	default:
		return errMethod("GET, POST")
	}
	return s.giveToken(w, r, asked)
}

func (s *Server) giveToken(w *record, r *http.Request, asked url.Values) error {
	c, err := s.gate.Identify(r)
	if err != nil {
		denied := refusedBy(err)
		denied.challenge = s.adminChallenge()
		return denied
	}
	w.caller = c
	done, err := s.gate.Enter(r, c)
	if err != nil {
		return refusedBy(err)
	}
	defer done()
	if service := asked.Get("service"); service != "" && service != access.Service {
		return errRequest("tokens are given for the service " + access.Service + " alone")
	}
	t, err := s.gate.Token(c, strings.Fields(strings.Join(asked["scope"], " "))...)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, r, t)
}

// readTokenForm reads a form of bounded size, that comes in bounded time.
func readTokenForm(w *record, r *http.Request) (url.Values, error) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" {
		return nil, errRequest("the body must be application/x-www-form-urlencoded")
	}
	http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Now().Add(tokenFormWait)) // until all came, see boundBody
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTokenForm))
	if err != nil {
		return nil, brokenForm(err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errRequest("the body is no form: " + err.Error())
	}
	return form, nil
}

// showGrant has the request show what its form shows. What clients know as a
// refresh token is for us any token that says who they are.
func showGrant(r *http.Request, form url.Values) error {
	r.Header.Del("Authorization")
	switch form.Get("grant_type") {
	case "password":
		r.SetBasicAuth(form.Get("username"), form.Get("password"))
	case "refresh_token":
		r.Header.Set("Authorization", "Bearer "+form.Get("refresh_token"))
	default:
		return errRequest("grant_type must be password or refresh_token")
	}
	return nil
}
