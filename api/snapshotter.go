package api

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/imagecache/imagecache/registry"
)

// SnapshotterStatus is how it stands with what containerd is given beside the
// mirror. What is counted is counted since the daemon started.
type SnapshotterStatus struct {
	Address    string           `json:"address"`      // of its socket
	Taken      int64            `json:"taken"`        // layers given without a download
	Reused     int64            `json:"reused"`       // of layers that had been given before
	Missed     map[string]int64 `json:"missed"`       // layers that containerd fetched and unpacked itself, by reason
	Waiting    int64            `json:"waiting"`      // calls that wait for a layer
	Mended     int64            `json:"mended"`       // layers that the disk lost and that were made again
	Lost       int64            `json:"lost"`         // that could not be made again when they were wanted
	Forms      map[string]int   `json:"forms"`        // unpacked layers, by kind
	FormBytes  int64            `json:"form_bytes"`   // that they take on the disk
	FormsInUse int              `json:"forms_in_use"` // that a snapshot needs
	Making     int              `json:"making"`       // being unpacked
	Queued     int              `json:"queued"`       // waiting to be
	Made       int64            `json:"made"`         // unpacked
	Failed     map[string]int64 `json:"failed"`       // could not be unpacked, by reason
	Rotten     int64            `json:"rotten"`       // found damaged
	Scrubbed   int64            `json:"scrubbed"`     // bytes read to prove unpacked layers again
}

// fullStatus is what the administration tells: the registry's, and that of
// what stands beside it.
type fullStatus struct {
	registry.Status
	Snapshotter *SnapshotterStatus `json:"snapshotter,omitempty"`
}

// snapshotterMetrics collects, at each scrape, how the snapshotter stands.
type snapshotterMetrics struct {
	status func() *SnapshotterStatus

	taken, missed, waiting, mended, lost *prometheus.Desc
	forms, formBytes, inUse              *prometheus.Desc
	making, queued, made, failed, rotten *prometheus.Desc
	scrubbed                             *prometheus.Desc
}

func newSnapshotterMetrics(status func() *SnapshotterStatus) *snapshotterMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("imagecache_snapshotter_"+name, help, labels, nil)
	}
	return &snapshotterMetrics{
		status:    status,
		taken:     desc("layers_taken_total", "Layers given to containerd without a download, by whether they had been given before.", "before"),
		missed:    desc("layers_missed_total", "Layers that containerd had to fetch and unpack itself.", "reason"),
		waiting:   desc("waiting", "Calls that wait for a layer to be fetched and unpacked."),
		mended:    desc("mended_total", "Layers that the disk lost and that were made again."),
		lost:      desc("lost_total", "Layers that the disk lost and that could not be made again when they were wanted."),
		forms:     desc("forms", "Unpacked layers.", "kind"),
		formBytes: desc("form_bytes", "Bytes of disk that unpacked layers take."),
		inUse:     desc("forms_in_use", "Unpacked layers that a snapshot needs."),
		making:    desc("making", "Layers that are being unpacked."),
		queued:    desc("queued", "Layers that wait to be unpacked."),
		made:      desc("forms_made_total", "Layers that were unpacked."),
		failed:    desc("forms_failed_total", "Layers that could not be unpacked.", "reason"),
		rotten:    desc("forms_rotten_total", "Unpacked layers that were found damaged."),
		scrubbed:  desc("form_bytes_scrubbed_total", "Bytes that were read to prove unpacked layers again."),
	}
}

func (m *snapshotterMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.taken, m.missed, m.waiting, m.mended, m.lost, m.forms, m.formBytes, m.inUse, m.making, m.queued, m.made, m.failed, m.rotten, m.scrubbed} {
		to <- d
	}
}

func (m *snapshotterMetrics) Collect(to chan<- prometheus.Metric) {
	s := m.status()
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	count(m.taken, s.Taken, "no")
	count(m.taken, s.Reused, "yes")
	count(m.mended, s.Mended)
	count(m.lost, s.Lost)
	count(m.made, s.Made)
	count(m.rotten, s.Rotten)
	count(m.scrubbed, s.Scrubbed)
	gauge(m.waiting, s.Waiting)
	gauge(m.formBytes, s.FormBytes)
	gauge(m.inUse, int64(s.FormsInUse))
	gauge(m.making, int64(s.Making))
	gauge(m.queued, int64(s.Queued))
	for reason, n := range s.Missed {
		count(m.missed, n, reason)
	}
	for reason, n := range s.Failed {
		count(m.failed, n, reason)
	}
	for kind, n := range s.Forms {
		gauge(m.forms, int64(n), kind)
	}
}
