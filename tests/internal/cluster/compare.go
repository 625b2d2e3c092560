package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
)

// Identical waits until r0 is in sync everywhere and then fails the test unless all backing files
// hold the same bytes. No client may write meanwhile.
func (c *Cluster) Identical(primary string) {
	c.t.Helper()
	c.WaitInSync(primary)
	nodes := c.DataNodes()
	for _, n := range nodes[1:] {
		if err := SameContent(c.Data(nodes[0]), c.Data(n)); err != nil {
			c.t.Errorf("replicas differ: %v", err)
		}
	}
}

// RequireSame fails the test unless two files hold the same bytes.
func RequireSame(t testing.TB, a, b string) {
	t.Helper()
	if err := SameContent(a, b); err != nil {
		t.Fatal(err)
	}
}

// SameContent returns an error that names the blocks in which two files differ, nil when they hold
// the same bytes and are equally long.
func SameContent(a, b string) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	const block = 4096
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	var diffs []int64
	for off := int64(0); ; {
		na, errA := io.ReadFull(fa, bufA)
		nb, errB := io.ReadFull(fb, bufB)
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
		}
		if na != nb {
			return fmt.Errorf("%s and %s are not equally long (near byte %d)", a, b, off+int64(min(na, nb)))
		}
		if na == 0 {
			break
		}
		if !bytes.Equal(bufA[:na], bufB[:nb]) {
			for i := 0; i < na; i += block {
				if end := min(i+block, na); !bytes.Equal(bufA[i:end], bufB[i:end]) {
					diffs = append(diffs, off+int64(i))
				}
			}
		}
		off += int64(na)
	}
	if len(diffs) == 0 {
		return nil
	}
	return fmt.Errorf("%s and %s differ in %d blocks of %d bytes, the first at offsets %v", a, b, len(diffs), block, diffs[:min(len(diffs), 10)])
}
