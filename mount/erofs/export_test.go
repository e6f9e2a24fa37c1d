package erofs

// ProbeOnly is Probe with these ways alone.
func ProbeOnly(dir string, ways ...Way) Support { return probe{dir: dir, ways: ways}.run() }
