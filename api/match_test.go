package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// TestABodyThatNeverEndsIsToldToBeLate: boundBody sets the deadline.
func TestABodyThatNeverEndsIsToldToBeLate(t *testing.T) {
	body := io.MultiReader(strings.NewReader("["), iotest.ErrReader(os.ErrDeadlineExceeded))
	r := httptest.NewRequest("POST", "http://cache.test"+matchPath, body)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	New(Options{Registry: newShelf(t)}).Admin().ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "it did not come in time") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestWhatIsNoListIsToldInTheWordsOfTheRequest(t *testing.T) {
	socket := listen(t, newRemote(t, adminRules).server.Admin())
	for asked, want := range map[string]string{
		"":                       "the request body is empty",
		"null":                   "must be a list",
		"{}":                     "there is a JSON object",
		`["x"]`:                  "there is a JSON string",
		`[{"digest":"x"}]`:       "not a digest",
		`[{"digest":1}]`:         "digest cannot be a JSON number",
		`[{"digest":"x"}] 1`:     "more than one value",
		`[{"digest":"x","y":1}]`: `unknown field "y"`,
		`[{"digest":"` + sha256d + `","size":-1}]`: "sizes are not negative",
	} {
		answer, body := post(t, socket+matchPath, asked)
		if answer.StatusCode != 400 || !strings.Contains(strings.ReplaceAll(body, `\"`, `"`), want) || strings.Contains(body, "Go ") {
			t.Errorf("%s: %d %s, want %s", asked, answer.StatusCode, body, want)
		}
	}
	if answer, body := post(t, socket+matchPath, "[]"); answer.StatusCode != 200 || body != "[]\n" {
		t.Errorf("of nothing: %d %q", answer.StatusCode, body)
	}
}
