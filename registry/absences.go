package registry

import (
	"errors"
	"sync"
	"time"
)

const (
	absentFor   = 5 * time.Second // a 404 is remembered: long enough for a storm, short enough for a push
	absentsMost = 4096            // what is remembered at most; beyond it the memory begins anew
)

// absences remembers what upstream said it does not have.
type absences struct {
	now func() time.Time
	mu  sync.Mutex // guards set
	set map[string]absence
}

type absence struct {
	until time.Time
	why   error
}

// check returns the remembered error for a key, or nil.
func (a *absences) check(key string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if it, ok := a.set[key]; ok && a.now().Before(it.until) {
		return it.why
	}
	return nil
}

// note remembers err for a key when it says that something does not exist. A
// refusal is not remembered: it may be meant for one caller.
func (a *absences) note(key string, err error) {
	var e *Error
	if !errors.As(err, &e) || (e.Code != CodeManifestUnknown && e.Code != CodeBlobUnknown && e.Code != CodeNameUnknown) {
		return
	}
	a.remember(key, err, absentFor)
}

// remember keeps err for a key for a while.
func (a *absences) remember(key string, err error, life time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.set == nil || len(a.set) >= absentsMost {
		a.set = map[string]absence{}
	}
	a.set[key] = absence{a.now().Add(life), err}
}

// clear forgets all: something was pushed.
func (a *absences) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.set)
}
