//go:build race

package memnet

const raceDetector = true
