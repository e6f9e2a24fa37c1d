package registry

import "errors"

// claim is a change of a pin that the callers who wait for it may still take
// back: they were told of nothing yet. Once one of them is, or somebody else
// changes the pin, it stands.
type claim struct {
	undo    pinChange // how it was before
	callers int       // who wait for it
	under   *claim    // what undo brings back, where that may be taken back too
}

// errRaced: a pin is another one than when it was decided how to change it.
var errRaced = errors.New("the pin was changed meanwhile")

// seenPin is a pin as it was when it was decided how to change it; nil is none.
type seenPin *pinRow

func (r *Registry) seePin(key string) seenPin {
	if row, pinned := r.pinRow(key); pinned {
		return &row
	}
	return nil
}

// raced reports whether a pin is not as it was seen.
func (r *Registry) raced(key string, seen seenPin) bool {
	now, pinned := r.pinRow(key)
	if !pinned || seen == nil {
		return pinned || seen != nil
	}
	return !now.same(*seen) || now.Lockfile != seen.Lockfile
}

// claimPin makes a pin stand as row says, until it is released or settled. The
// claim is nil where it stood so already, for good. Errors: errRaced when the
// pin is not as it was seen, those of fromLockfile and of changePinsLocked.
func (r *Registry) claimPin(key string, seen seenPin, row pinRow) (*claim, pinRow, error) {
	r.pinning.Lock()
	defer r.pinning.Unlock()
	if r.raced(key, seen) {
		return nil, row, errRaced
	}
	under := r.desired.claims[key]
	if seen != nil && row.same(*seen) {
		if under != nil {
			under.callers++
		}
		return under, *seen, nil
	}
	if err := r.fromLockfile(key, seen); err != nil {
		return nil, row, err
	}
	undo, err := r.changePinsLocked(pinChange{key: key, row: &row})
	if err != nil {
		return nil, row, err
	}
	c := &claim{undo: undo[0], callers: 1, under: under}
	r.desired.claims[key] = c
	return c, row, nil
}

// releasePin takes a claim back for one caller. The pin is changed back when
// nobody else waits for it and nobody was told of it or changed it since.
func (r *Registry) releasePin(key string, c *claim) error {
	if c == nil {
		return nil
	}
	r.pinning.Lock()
	defer r.pinning.Unlock()
	if c.callers--; c.callers > 0 {
		return nil
	}
	top := r.desired.claims[key]
	if top == c {
		_, err := r.changePinsLocked(c.undo)
		if err == nil && c.under != nil {
			r.desired.claims[key] = c.under
		}
		return err
	}
	if over := top.over(c); over != nil {
		over.undo, over.under = c.undo, c.under
	}
	return nil
}

// settlePin makes a claim stand: its caller is told of it.
func (r *Registry) settlePin(key string, c *claim) {
	r.pinning.Lock()
	defer r.pinning.Unlock()
	top := r.desired.claims[key]
	switch over := top.over(c); {
	case c == nil:
	case top == c:
		delete(r.desired.claims, key)
	case over != nil:
		over.under = nil
	}
}

// over finds the claim that lies on c, from the topmost one down.
func (top *claim) over(c *claim) *claim {
	for over := top; over != nil; over = over.under {
		if over.under == c {
			return over
		}
	}
	return nil
}

// changeSeen changes one pin by hand, if it is as it was seen. Errors are as
// for claimPin.
func (r *Registry) changeSeen(seen seenPin, change pinChange) error {
	r.pinning.Lock()
	defer r.pinning.Unlock()
	if r.raced(change.key, seen) {
		return errRaced
	}
	if err := r.fromLockfile(change.key, seen); err != nil {
		return err
	}
	_, err := r.changePinsLocked(change)
	return err
}

// fromLockfile refuses with [CodePinned] to change a pin by hand that comes
// from the lockfile which is followed: the lockfile would change it back.
func (r *Registry) fromLockfile(key string, row *pinRow) error {
	if row == nil || !row.Lockfile || r.desired.lockfile == "" {
		return nil
	}
	return &Error{Code: CodePinned, Reference: key, Message: "comes from the lockfile " + r.desired.lockfile + "; change it there"}
}
