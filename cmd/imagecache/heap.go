package main

// heapFloorSize is some times what the daemon holds while it serves. Without
// it the collector, which begins when the heap has doubled, would begin anew
// every ten milliseconds under load, at a fifth of the CPU time.
const heapFloorSize = 8 << 20

// heapFloor is memory that the collector counts as held. Nobody writes to it,
// so that the system never gives it any: what it costs is that as many bytes
// more are let lie before the collector takes them, however large the heap is.
type heapFloor []byte

func newHeapFloor() heapFloor { return make(heapFloor, heapFloorSize) }
