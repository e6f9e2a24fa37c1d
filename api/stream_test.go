package api

import (
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/registry"
)

// TestASilentWorkIsToldAgain: proxies take a connection that says nothing for dead.
func TestASilentWorkIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := httptest.NewRecorder()
		w := &record{ResponseWriter: answer}
		err := stream(w, func(progress func(registry.Progress)) (int, error) {
			progress(registry.Progress{Reference: "app", Phase: registry.PhaseFetch})
			time.Sleep(4*repeatEvery + time.Second)
			return 0, nil
		}, func(int) any { return "done" })
		if told := strings.Count(answer.Body.String(), `"progress"`); err != nil || told != 5 {
			t.Errorf("told %d times in four and a bit: %s, %v", told, answer.Body, err)
		}
	})
}

// TestAWorkThatToldNothingMayStillFailInOrder keeps the status for its error.
func TestAWorkThatToldNothingMayStillFailInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := httptest.NewRecorder()
		w := &record{ResponseWriter: answer}
		err := stream(w, func(func(registry.Progress)) (int, error) {
			time.Sleep(2 * repeatEvery)
			return 0, errNoEndpoint
		}, func(int) any { return "done" })
		if err != errNoEndpoint || answer.Body.Len() > 0 {
			t.Errorf("%v %q", err, answer.Body)
		}
	})
}
