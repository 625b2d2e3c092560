package attach

import (
	"fmt"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// BenchmarkWrite4K is a 4 KiB write from a local socket to the answer, through the relay and to a server
// in this process that does nothing; "direct" is the same without the relay, so the difference is its cost.
func BenchmarkWrite4K(b *testing.B) {
	for _, via := range []string{"direct", "relay"} {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/depth=%d", via, depth), func(b *testing.B) { benchWrite(b, via, depth) })
		}
	}
}

func benchWrite(b *testing.B, via string, depth int) {
	c := newCluster(b, 1)
	c.discard = true
	var cl *nbdtest.Client
	if via == "relay" {
		cl = open(b, testConfig(c)).dial()
	} else {
		cl = c.direct()
	}
	q, p := write(1, 1, 0, 4096)
	frame := q.Append(nil, p)
	back := make([]byte, replySize)
	b.SetBytes(4096)
	b.ReportAllocs()
	b.ResetTimer()
	under := 0
	for i := 0; i < b.N; i++ {
		cl.Write(frame)
		if under++; under == depth {
			readFull(b, cl, back)
			under--
		}
	}
	for ; under > 0; under-- {
		readFull(b, cl, back)
	}
}

func readFull(b *testing.B, cl *nbdtest.Client, p []byte) {
	for n := 0; n < len(p); {
		m, err := cl.Conn.Read(p[n:])
		if err != nil {
			b.Fatal(err)
		}
		n += m
	}
}

// direct returns a connection to the primary without a relay.
func (c *cluster) direct() *nbdtest.Client {
	cl := nbdtest.Dial(c.tb, unixAddr(c.nodes[c.primary].where.Addr))
	cl.Greet()
	if _, refused, text := cl.Attach(nbd.Attach{Resource: "r0", Session: 1, Holder: "h", Device: "d", Boot: "b"}); refused != 0 {
		c.tb.Fatal(text)
	}
	if refused, text := cl.Go("r0"); refused != 0 {
		c.tb.Fatal(text)
	}
	return cl
}

type unixAddr string

func (unixAddr) Network() string  { return "unix" }
func (a unixAddr) String() string { return string(a) }
