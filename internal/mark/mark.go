// Package mark counts how often a rare branch was taken, by name, so that the simulator can fail
// when its workload never reached one that it is there for.
//
// In a normal build Hit does nothing and costs nothing. Built with the tag marks it counts; then
// it must be called by one goroutine at a time.
package mark
