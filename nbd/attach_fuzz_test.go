package nbd

import (
	"bytes"
	"testing"
)

// What is decoded encodes to the same bytes: the length is exact and nothing is read twice.
func FuzzDecodeAttach(f *testing.F) {
	a := Attach{Resource: "r0", Key: Key{1}, Session: 9, Shared: true, Resume: true, Holder: "h", Device: "/dev/nbd0", Boot: "b"}
	f.Add(AppendAttach(nil, a))
	f.Add(AppendDetach(nil, "r0", a.Key))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := decodeAttach(b); ok {
			if again := AppendAttach(nil, a); !bytes.Equal(again, b) {
				t.Fatalf("%x became %+v and %x", b, a, again)
			}
		}
		if name, key, ok := decodeDetach(b); ok {
			if again := AppendDetach(nil, name, key); !bytes.Equal(again, b) {
				t.Fatalf("%x became %q and %x", b, name, again)
			}
		}
	})
}
