package voter

import (
	"bytes"
	"fmt"
	"testing"
)

// eventful is a run in which nearly everything happens once.
func eventful(t testing.TB, seed byte) []byte {
	t.Helper()
	c := newCluster(t, seed, "A", "B", "C", "W")
	c.leader()
	c.create("A", "r0", 1)
	c.split("A", c.leader())
	for i := range 30 {
		n := c.names[i%4]
		c.fresh(n)
		if err := c.propose(n, note(c.hosts[n].State(), fmt.Sprint(i))).Err(); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			c.kill(n)
			c.steps(30)
			c.start(n)
		}
	}
	c.heal()
	c.kill("B", "C", "W")
	c.until("A is deposed", func() bool { return !c.hosts["A"].Leads() })
	for i := range 3 {
		c.begin("A", note(c.hosts["A"].State(), fmt.Sprint("tail", i)))
	}
	c.alone("A")
	c.start("B", "C", "W")
	c.steps(300)
	c.equal("A", "B")
	return c.trace.Sum(nil)
}

func TestSameInputs_SameBytes(t *testing.T) {
	first := eventful(t, 50)
	for range 3 {
		if !bytes.Equal(eventful(t, 50), first) {
			t.Fatal("the same calls and random numbers led to other frames, states or answers")
		}
	}
	if bytes.Equal(eventful(t, 51), first) {
		t.Error("the random numbers have no effect: the trace shows nothing")
	}
}
