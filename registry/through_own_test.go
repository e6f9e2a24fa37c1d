package registry

import "testing"

// TestThroughWithALoginOfOnesOwnIsNotOurs: who shows upstream's own login is for
// upstream to judge, though a rule would let it push with the operator's.
func TestThroughWithALoginOfOnesOwnIsNotOurs(t *testing.T) {
	c := throughCache(t, newTaker(t))
	ruled := WithRight(t.Context(), atTaker)
	_, err := c.StartUpload(WithCaller(ruled, NewCaller("Basic YW5uOndyb25n")), atTaker, "")
	if e := wantCode(t, err, CodeUnauthorized); e.SignIn != takerName {
		t.Errorf("it is asked to sign in at %q", e.SignIn)
	}
	if _, err := c.StartUpload(WithCaller(ruled, NewCaller(annsLogin)), atTaker, ""); err != nil {
		t.Error(err)
	}
	// A right in one repository is none in another.
	other := WithRight(t.Context(), Repository{Registry: takerName, Path: "team/other"})
	_, err = c.StartUpload(other, atTaker, "")
	wantCode(t, err, CodeUnauthorized)
}
