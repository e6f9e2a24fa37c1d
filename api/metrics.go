package api

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics counts what the handlers do. No label holds what a client or an
// upstream chose, so that the number of series is bounded; the counters of
// the usual answers are found without a map.
type metrics struct {
	handler  http.Handler
	registry *prometheus.Registry

	gets, hits, loads, deduped [kinds]prometheus.Counter // manifest and blob only
	served                     atomic.Int64              // bytes of bodies
	requests                   *prometheus.CounterVec
	durations                  [kinds]prometheus.Observer

	// usual holds the counters of status 200, made when they are first needed.
	usual [kinds][methods][outcomes]atomic.Pointer[prometheus.Counter]
}

// The methods that are told apart.
const (
	methodOther = iota
	methodGet
	methodHead
	methods
)

var methodNames = [methods]string{"other", http.MethodGet, http.MethodHead}

// durationBuckets in seconds: a hit takes well under a millisecond, a cold
// layer minutes.
var durationBuckets = []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 1800}

func newMetrics(health Health, version string) *metrics {
	reg := prometheus.NewRegistry()
	m := &metrics{
		registry: reg,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "imagecache_requests_total", Help: "Requests, by what they were about and how they were answered."},
			[]string{"kind", "method", "code", "outcome"}),
	}
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "imagecache_request_duration_seconds", Help: "Time from the request to the last byte of its answer.",
		Buckets: durationBuckets}, []string{"kind"})
	for k := range kinds {
		m.durations[k] = durations.WithLabelValues(k.String())
	}
	bytes := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "imagecache_bytes_served_total", Help: "Bytes of bodies that were sent to clients."},
		func() float64 { return float64(m.served.Load()) })
	m.byKind(reg, &m.gets, "imagecache_gets_total", "Manifests and blobs that were asked for and found.")
	m.byKind(reg, &m.hits, "imagecache_hits_total", "Gets that were answered from here, fresh, pinned or stale.")
	m.byKind(reg, &m.loads, "imagecache_loads_total", "Gets that needed the upstream: gets less hits.")
	m.byKind(reg, &m.deduped, "imagecache_loads_deduped_total", "Loads that made a transfer of their own: loads less those that joined one.")
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "imagecache_build_info", Help: "Always 1; the labels tell the build.",
		ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	reg.MustRegister(bytes, m.requests, durations, build, newStanding(health),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// One part that cannot be collected, such as the space of a disk that
	// fails, must not hide the others.
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return m
}

// byKind registers one counter with a series each for manifests and blobs.
func (m *metrics) byKind(reg *prometheus.Registry, to *[kinds]prometheus.Counter, name, help string) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"kind"})
	reg.MustRegister(vec)
	for _, k := range []kind{kindManifest, kindBlob} {
		to[k] = vec.WithLabelValues(k.String())
	}
}

// got counts a manifest or blob that is about to be served. The words are
// groupcache's; a HEAD of a blob moves nothing and does not count.
func (m *metrics) got(k kind, o outcome) {
	m.gets[k].Inc()
	switch o {
	case outcomeHit, outcomeStale:
		m.hits[k].Inc()
	case outcomeJoined:
		m.loads[k].Inc()
	case outcomeMiss, outcomeBypass:
		m.loads[k].Inc()
		m.deduped[k].Inc()
	}
}

// observe counts a finished request.
func (m *metrics) observe(w *record, elapsed time.Duration) {
	m.served.Add(w.bytes)
	m.durations[w.kind].Observe(elapsed.Seconds())
	m.request(w).Inc()
}

func (m *metrics) request(w *record) prometheus.Counter {
	method := methodOther
	switch w.request.Method {
	case http.MethodGet:
		method = methodGet
	case http.MethodHead:
		method = methodHead
	}
	if w.status != http.StatusOK {
		return m.resolve(w, method)
	}
	slot := &m.usual[w.kind][method][w.outcome]
	if c := slot.Load(); c != nil {
		return *c
	}
	c := m.resolve(w, method)
	slot.Store(&c)
	return c
}

func (m *metrics) resolve(w *record, method int) prometheus.Counter {
	return m.requests.WithLabelValues(w.kind.String(), methodNames[method], strconv.Itoa(w.status), w.outcome.String())
}

// serve answers a scrape.
func (m *metrics) serve(w *record, r *http.Request) error {
	m.handler.ServeHTTP(w, r)
	return nil
}
