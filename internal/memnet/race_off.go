//go:build !race

package memnet

const raceDetector = false
