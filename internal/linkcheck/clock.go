package linkcheck

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Clock is what a few round trips tell of another node's clock.
type Clock struct {
	RTT   time.Duration // the shortest
	Ahead time.Duration // of our clock
	Error time.Duration // Ahead is wrong by this at most
}

// Compare compares the clock at the other end of conn with ours, in trips round trips, one after
// another. It leaves conn open. The shortest trip tells most: what it took is all that is uncertain.
func Compare(ctx context.Context, conn net.Conn, trips int) (Clock, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var best Clock
	var b [frameSize]byte
	for i := range trips {
		frame{number: uint64(i)}.encode(&b)
		begin := time.Now()
		if _, err := conn.Write(b[:]); err != nil {
			return Clock{}, fmt.Errorf("ask for the clock: %w", err)
		}
		f, err := readFrame(conn)
		if err != nil {
			return Clock{}, fmt.Errorf("ask for the clock: %w", err)
		}
		rtt := time.Since(begin)
		if c := compare(begin.UnixNano(), f, rtt); i == 0 || c.RTT < best.RTT {
			best = c
		}
	}
	return best, nil
}

// compare takes both ways for equally long: the classic estimate, wrong by half of the way at most.
func compare(begin int64, f frame, rtt time.Duration) Clock {
	way := rtt - time.Duration(f.answered-f.came)
	ahead := time.Duration((f.came-begin)+(f.answered-begin-int64(rtt))) / 2
	return Clock{RTT: rtt, Ahead: ahead, Error: max(way, 0) / 2}
}
