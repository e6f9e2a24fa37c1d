package api

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/imagecache/imagecache/registry"
)

// standingTimeout bounds what a scrape waits for: Prometheus gives up after
// 10 s unless told otherwise.
const standingTimeout = 5 * time.Second

// standing collects, at each scrape, how the store, the pins and the upstreams
// stand. It keeps nothing itself.
type standing struct {
	health Health

	bytes, blobs, capacity, free      *prometheus.Desc
	partials, partialBytes            *prometheus.Desc
	idleBytes, rottenBytes, formBytes *prometheus.Desc
	flights, pins, pinsIncomplete     *prometheus.Desc
	pinsDrifted                       *prometheus.Desc
	drillFailing, drillExpiring       *prometheus.Desc
	fetched, bypassed, writable       *prometheus.Desc
	evictions, evicted                *prometheus.Desc
	layersDropped, bytesDropped       *prometheus.Desc
	scrubbed, quarantined, repaired   *prometheus.Desc
	unrepaired                        *prometheus.Desc
	upRequests, upFailures, upHealthy *prometheus.Desc
	upAllowed, upLeft                 *prometheus.Desc
	mirRequests, mirFailures, mirUp   *prometheus.Desc
}

func newStanding(health Health) *standing {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("imagecache_"+name, help, labels, nil)
	}
	return &standing{
		health:         health,
		bytes:          desc("bytes", "Bytes of the blobs in the store."),
		blobs:          desc("items", "Blobs in the store."),
		capacity:       desc("disk_capacity_bytes", "Size of the file system that holds the store."),
		free:           desc("disk_free_bytes", "Bytes free on the file system that holds the store."),
		partials:       desc("partials", "Transfers that are running or can be resumed."),
		partialBytes:   desc("partial_bytes", "Bytes that such transfers have on disk."),
		idleBytes:      desc("partial_idle_bytes", "Of these, the bytes of transfers that nobody is at."),
		rottenBytes:    desc("quarantine_bytes", "Bytes of damaged blobs that are kept to be looked at."),
		formBytes:      desc("form_bytes", "Bytes of what was made of blobs: unpacked layers."),
		flights:        desc("flights", "Transfers that are running."),
		pins:           desc("pins", "Pinned references."),
		pinsIncomplete: desc("pins_incomplete", "Pinned references of which something is missing."),
		pinsDrifted:    desc("pins_drifted", "Pinned references whose tag means another digest upstream."),
		drillFailing:   desc("drill_failing", "References, pinned or used within a week, that could not start if every upstream went away now."),
		drillExpiring:  desc("drill_expiring", "References, pinned or used within a week, that could start without upstream now, and not for long or not again."),
		fetched:        desc("bytes_fetched_total", "Bytes of bodies that upstreams sent."),
		evictions:      desc("evictions_total", "Blobs that were evicted for space or for age."),
		evicted:        desc("evicted_bytes_total", "Bytes of blobs that were evicted."),
		bypassed:       desc("bypassed_total", "Readers of blobs that went past the store, which could not keep or give them."),
		writable:       desc("store_writable", "1 when the store can keep what is fetched, 0 when pulls go past it."),
		scrubbed:       desc("scrubbed_bytes_total", "Bytes that were read to prove blobs again."),
		layersDropped:  desc("layers_dropped_total", "Compressed layers that were dropped because they are here unpacked."),
		bytesDropped:   desc("layers_dropped_bytes_total", "Bytes of those."),
		quarantined:    desc("quarantined_total", "Blobs that rotted and were taken away."),
		repaired:       desc("repaired_total", "Blobs that were lost to rot and came back."),
		unrepaired:     desc("unrepaired", "Blobs that were lost to rot and did not come back."),
		upRequests:     desc("upstream_requests_total", "Requests to an upstream.", "upstream"),
		upFailures:     desc("upstream_failures_total", "Requests to an upstream that failed.", "upstream"),
		upHealthy:      desc("upstream_up", "1 unless an upstream is being left alone because it failed.", "upstream"),
		upAllowed:      desc("upstream_ratelimit_limit", "Requests that an upstream said it allows us in its window.", "upstream"),
		upLeft:         desc("upstream_ratelimit_remaining", "Requests that an upstream said are left of them.", "upstream"),
		mirRequests:    desc("mirror_requests_total", "Requests to a mirror of an upstream.", "upstream", "mirror"),
		mirFailures:    desc("mirror_failures_total", "Requests to a mirror of an upstream that failed.", "upstream", "mirror"),
		mirUp:          desc("mirror_up", "1 unless a mirror is being left alone because it failed.", "upstream", "mirror"),
	}
}

// Describe implements [prometheus.Collector].
func (s *standing) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		s.bytes, s.blobs, s.capacity, s.free, s.partials, s.partialBytes, s.idleBytes, s.rottenBytes, s.formBytes, s.flights,
		s.pins, s.pinsIncomplete, s.pinsDrifted, s.drillFailing, s.drillExpiring, s.fetched, s.evictions, s.evicted, s.layersDropped, s.bytesDropped, s.scrubbed, s.quarantined, s.repaired, s.unrepaired, s.bypassed, s.writable, s.upRequests, s.upFailures, s.upHealthy,
		s.upAllowed, s.upLeft, s.mirRequests, s.mirFailures, s.mirUp,
	} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (s *standing) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), standingTimeout)
	defer cancel()
	s.collectStatus(ctx, to)
	s.collectSpace(to)
}

func (s *standing) collectStatus(ctx context.Context, to chan<- prometheus.Metric) {
	status := s.health.Status(ctx)
	to <- gauge(s.flights, status.Flights)
	to <- gauge(s.pins, status.Pins)
	to <- gauge(s.pinsIncomplete, status.PinsIncomplete)
	to <- gauge(s.pinsDrifted, status.PinsDrifted)
	if status.DrillFailing != nil {
		to <- gauge(s.drillFailing, *status.DrillFailing)
	}
	if status.DrillExpiring != nil {
		to <- gauge(s.drillExpiring, *status.DrillExpiring)
	}
	to <- counter(s.fetched, status.BytesFetched)
	to <- counter(s.evictions, status.Evictions)
	to <- counter(s.evicted, status.EvictedBytes)
	to <- counter(s.layersDropped, status.LayersDropped)
	to <- counter(s.bytesDropped, status.BytesDropped)
	to <- counter(s.scrubbed, status.BytesScrubbed)
	to <- counter(s.quarantined, status.Quarantined)
	to <- counter(s.repaired, status.Repaired)
	to <- gauge(s.unrepaired, status.Unrepaired)
	to <- counter(s.bypassed, status.Bypassed)
	writable := 0
	if status.Writable {
		writable = 1
	}
	to <- gauge(s.writable, writable)
	for _, u := range status.Upstreams {
		to <- counter(s.upRequests, u.Requests, u.Name)
		to <- counter(s.upFailures, u.Failures, u.Name)
		to <- gauge(s.upHealthy, isUp(u), u.Name)
		if u.Allowance != nil {
			to <- gauge(s.upAllowed, u.Allowance.Limit, u.Name)
			to <- gauge(s.upLeft, u.Allowance.Remaining, u.Name)
		}
		for _, m := range u.Mirrors {
			mirror := strings.TrimPrefix(m.URL, "https://")
			to <- counter(s.mirRequests, m.Requests, u.Name, mirror)
			to <- counter(s.mirFailures, m.Failures, u.Name, mirror)
			to <- gauge(s.mirUp, isUp(m), u.Name, mirror)
		}
	}
}

func isUp(u registry.UpstreamStatus) int {
	if u.State == registry.StateBackingOff {
		return 0
	}
	return 1
}

func (s *standing) collectSpace(to chan<- prometheus.Metric) {
	usage, err := s.health.Space()
	if err != nil {
		to <- prometheus.NewInvalidMetric(s.bytes, err)
		return
	}
	to <- gauge(s.bytes, usage.Bytes)
	to <- gauge(s.blobs, usage.Blobs)
	to <- gauge(s.capacity, usage.Capacity)
	to <- gauge(s.free, usage.Free)
	to <- gauge(s.partials, usage.Partial)
	to <- gauge(s.partialBytes, usage.PartialBytes)
	to <- gauge(s.idleBytes, usage.IdleBytes)
	to <- gauge(s.rottenBytes, usage.QuarantineBytes)
	to <- gauge(s.formBytes, usage.FormBytes)
}

type number interface {
	~int | ~int64 | ~uint64
}

func gauge[N number](d *prometheus.Desc, v N, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
}

func counter[N number](d *prometheus.Desc, v N, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}
