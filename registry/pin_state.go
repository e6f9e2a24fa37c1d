package registry

import (
	"slices"
)

// pinOf tells how a pin stands.
func (r *Registry) pinOf(key string, row pinRow) Pin {
	pin := Pin{
		Reference: key, Digest: row.Digest.String(), MediaType: row.MediaType,
		Platforms: row.Platforms, Want: 1, PinnedAt: row.At, Lockfile: row.Lockfile,
	}
	if h, err := r.holdingOf(row); err == nil { // else not even the manifest can be read: 0 of 1
		pin.Have, pin.Want, pin.Size, pin.Complete = h.have, h.want, h.bytes, h.complete()
		pin.Dropped = h.dropped
	}
	known := r.desired.known(key, row.Digest)
	known.drift.tell(&pin)
	pin.State = known.state(pin)
	if pin.State == PinUnreachable {
		pin.Error, pin.Since, pin.NextTry = known.why, known.since, known.next
	}
	pin.Referrers, pin.ReferrersWant = r.referrersHere(row)
	pin.History = r.pastPins(key)
	return pin
}

func (e effort) state(pin Pin) string {
	switch {
	case !pin.Complete && e.failures > 0:
		return PinUnreachable
	case !pin.Complete:
		return PinFilling
	case pin.Drift == DriftMoved:
		return PinDrifted
	}
	return PinComplete
}

// pastPins is the history of a pin, newest first. One that cannot be read is
// told as none: nothing is promised of it.
func (r *Registry) pastPins(key string) (pins []PastPin) {
	past, err := r.history(key)
	if err != nil {
		r.log.Error("history of a pin not read", "reference", key, "error", err)
	}
	for _, p := range slices.Backward(past) {
		h, err := r.holdingOf(pinRow{Digest: p.Digest, Platforms: p.Platforms})
		pins = append(pins, PastPin{Digest: p.Digest.String(), Platforms: p.Platforms, From: p.From, Until: p.Until,
			Complete: err == nil && h.complete()})
	}
	return pins
}

// tell writes what is known of upstream's tag into a pin.
func (d drift) tell(pin *Pin) {
	if d.at.IsZero() {
		return
	}
	pin.DriftCheckedAt = d.at
	switch {
	case d.why != "":
		pin.Drift, pin.DriftReason = DriftUnknown, d.why
	case d.upstream.String() == pin.Digest:
		pin.Drift, pin.UpstreamDigest = DriftSame, d.upstream.String()
	default:
		pin.Drift, pin.UpstreamDigest, pin.Change = DriftMoved, d.upstream.String(), d.change
	}
}
