//go:build race

package peer

// raceEnabled: the race detector makes sync.Pool drop what it is given, at random.
const raceEnabled = true
