package registry

import (
	"net/http"
	"testing"
	"time"
)

// handClock is a time that tests move by hand.
type handClock struct{ at time.Time }

func (c *handClock) now() time.Time { return c.at }

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		value string
		want  time.Duration
	}{
		{"", 0}, {"soon", 0}, {"-5", 0}, {"7", 7 * time.Second}, {" 7 ", 7 * time.Second}, {"0", time.Second}, {"86400", 10 * time.Minute},
		{now.Add(time.Minute).Format(http.TimeFormat), time.Minute},
		{now.Add(-time.Minute).Format(http.TimeFormat), time.Second},
		{now.Add(time.Hour).Format(http.TimeFormat), 10 * time.Minute},
	} {
		if got := retryAfter(http.Header{"Retry-After": {c.value}}, now); got != c.want {
			t.Errorf("%q: got %v, want %v", c.value, got, c.want)
		}
	}
}

func TestOutageGrowsAndEndsWithASuccess(t *testing.T) {
	c := &handClock{time.Unix(1000, 0)}
	o := &outage{now: c.now, random: func() float64 { return 0.5 }}
	why := &Error{Code: CodeUnavailable}
	for _, want := range []time.Duration{2, 4, 8, 16, 30, 30} {
		o.failed(why)
		until, got, resting := o.resting()
		if !resting || got != why || until.Sub(c.at) != want*time.Second {
			t.Fatalf("rests %v (%v, %v), want %d s", until.Sub(c.at), got, resting, want)
		}
		o.failed(why) // another of the same burst
		if again, _, _ := o.resting(); again != until {
			t.Fatal("a failure while resting made the rest longer")
		}
		c.at = until
		if _, _, resting := o.resting(); resting {
			t.Fatal("still resting at the end of the rest")
		}
	}
	o.failed(why)
	o.over()
	if _, _, resting := o.resting(); resting {
		t.Fatal("resting after a success")
	}
	o.failed(why)
	if until, _, _ := o.resting(); until.Sub(c.at) != 2*time.Second {
		t.Fatalf("after a success the first rest is %v", until.Sub(c.at))
	}
}

func TestLimitEndsOnlyByASuccessOfItsKindThatBeganLater(t *testing.T) {
	c := &handClock{time.Unix(1000, 0)}
	l := &limit{now: c.now}
	begun := c.at.Add(-time.Second)
	l.reached(subjectManifest, &Error{Code: CodeTooMany, RetryAfter: time.Minute})
	c.at = c.at.Add(10 * time.Second)
	l.passed(subjectManifest, begun)
	l.passed(subjectBlob, c.at)
	until, why, resting := l.resting()
	if !resting || why.RetryAfter != 50*time.Second || until != c.at.Add(50*time.Second) {
		t.Fatalf("got %v, %v, %v", until, why, resting)
	}
	l.passed(subjectManifest, c.at)
	if _, _, resting := l.resting(); resting {
		t.Fatal("resting after a success")
	}
}

func TestLimitsOfOneKindHideNoOther(t *testing.T) {
	c := &handClock{time.Unix(1000, 0)}
	l := &limit{now: c.now}
	l.reached(subjectManifest, &Error{Code: CodeTooMany, RetryAfter: time.Minute})
	l.reached(subjectBlob, &Error{Code: CodeTooMany, RetryAfter: 20 * time.Second})
	if why := l.restingFor(subjectBlob); why == nil || why.RetryAfter != 20*time.Second {
		t.Errorf("blobs: %v", why)
	}
	for _, s := range []subject{subjectManifest, subjectHead, subjectTags} {
		if why := l.restingFor(s); why == nil || why.RetryAfter != time.Minute {
			t.Errorf("%s: %v", s, why)
		}
	}
	l.reached(subjectBlob, &Error{Code: CodeTooMany, RetryAfter: 5 * time.Minute})
	l.passed(subjectBlob, c.at)
	if why := l.restingFor(subjectBlob); why != nil {
		t.Errorf("blobs rest after a success: %v", why)
	}
	if until, why, resting := l.resting(); !resting || why.RetryAfter != time.Minute || until != c.at.Add(time.Minute) {
		t.Errorf("a blob that passed ended the limit on manifests: %v, %v", until, why)
	}
	c.at = c.at.Add(time.Minute)
	if why := l.restingFor(subjectManifest); why != nil {
		t.Errorf("at its end: %v", why)
	}
}
