// Package linkcheck measures the way from one node to another: how long a beacon and its answer take, how
// many get lost, and whether the lease that is set would have held.
//
// # Model
//
// The other node runs Serve, an echo behind the authenticated transport. Run sends it numbered probes at
// an even pace, as a primary sends beacons, whether the earlier ones were answered or not, and Tally
// keeps what came of them. Judge compares that with the lease, the beacon interval and the drift margin.
//
//	probe sent     |1      |2      |3      |4      |5
//	answered         |1                       |2,3  |4 |5
//	rests on       0    1                       3    4  5
//	                    <----------------------> a gap: from when 1 was sent to the answer to 2
//
// A lease has to outlast the longest such gap. One packet that TCP had to send again is such a gap, and
// that is what a lost packet does to beacons, too: the connection is the same kind.
//
// # What is lost
//
// A probe that is answered after the timeout is late; one that is never answered is lost. With TCP nothing
// is lost but with its connection. When a connection breaks, what was on its way is lost, and the
// next one is made while probes go on to be counted.
//
// # Frames
//
// Requests and replies have 32 bytes, version 1, big endian:
//
//	 0  8  "lsecho/1"
//	 8  8  number of the probe
//	16  8  reply: clock of the echo when the request came, in ns since 1970; request: 0
//	24  8  reply: its clock when the reply left; request: 0
//
// From the two stamps and its own the asker knows how far the clocks are apart, but for half of the round
// trip (Clock). Leases do not rest on these clocks: they count time, and never compare it.
//
// Tally and Judge are pure: time comes with what they are told.
//
// # Changes
//
//   - 1: first.
package linkcheck
