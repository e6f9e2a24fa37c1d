package main

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

func TestHeapFloorKeepsTheCollectorAway(t *testing.T) {
	floor := newHeapFloor()
	runtime.GC()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(goal)
	if got := goal[0].Value.Uint64(); got < 2*heapFloorSize {
		t.Errorf("the collector begins at %d bytes, want at least %d", got, 2*heapFloorSize)
	}
	runtime.KeepAlive(floor)
}
