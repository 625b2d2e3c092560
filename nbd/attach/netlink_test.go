package attach

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// The bytes are of a little-endian host, as the kernel reads them: attribute by attribute, length (2),
// type (2), value, padded to 4.
func TestEncode_TheKernelsAttributes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		encode func() ([]byte, error)
		want   []string
	}{
		{"connect", ConnectRequest{
			Index: 3, Size: 1 << 30, BlockSize: 4096, Flags: txHasFlags | txFlush | txFUA, DeadTimeout: 10 * time.Minute,
			Backend: "lockstep:r0:0102", Sockets: []int{7, 9},
		}.encode, []string{
			"0800" + "0100" + "03000000",         // INDEX
			"0c00" + "0200" + "0000004000000000", // SIZE_BYTES
			"0c00" + "0300" + "0010000000000000", // BLOCK_SIZE_BYTES
			"0c00" + "0400" + "0000000000000000", // TIMEOUT: off
			"0c00" + "0500" + "0d00000000000000", // SERVER_FLAGS
			"0c00" + "0800" + "5802000000000000", // DEAD_CONN_TIMEOUT: 600 s
			"1c00" + "0780",                      // SOCKETS, nested
			"0c00" + "0180" + "0800" + "0100" + "07000000",
			"0c00" + "0180" + "0800" + "0100" + "09000000",
			"1500" + "0a00" + hex.EncodeToString([]byte("lockstep:r0:0102")) + "00" + "000000", // BACKEND_IDENTIFIER
		}},
		{"reconfigure with sockets", ReconfigureRequest{Index: 1, Backend: "b", Sockets: []int{5}}.encode, []string{
			"0800" + "0100" + "01000000",
			"1000" + "0780" + "0c00" + "0180" + "0800" + "0100" + "05000000",
			"0600" + "0a00" + "6200" + "0000",
		}},
		{"reconfigure with a size", ReconfigureRequest{Index: 1, Backend: "b", Size: 2 << 30}.encode, []string{
			"0800" + "0100" + "01000000",
			"0c00" + "0200" + "0000008000000000",
			"0600" + "0a00" + "6200" + "0000",
		}},
		{"disconnect", func() ([]byte, error) { return encodeIndex(12) }, []string{"0800" + "0100" + "0c000000"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := tc.encode()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := hex.EncodeToString(b), strings.Join(tc.want, ""); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestDecode_StatusAndLinkDead(t *testing.T) {
	// DEVICE_LIST with nbd0, connected, and nbd5, not. The driver sends these nests without their flag.
	list := mustHex(t, "2c00"+"0900"+
		"1400"+"0100"+"0800"+"0100"+"00000000"+"0500"+"0200"+"01000000"+
		"1400"+"0100"+"0800"+"0100"+"05000000"+"0500"+"0200"+"00000000")
	st, err := decodeStatus(list)
	if err != nil || len(st) != 2 || !st[0] || st[5] {
		t.Errorf("status %v, %v", st, err)
	}
	if i, err := decodeIndex(mustHex(t, "0800"+"0100"+"0c000000")); err != nil || i != 12 {
		t.Errorf("index %d, %v", i, err)
	}
	if _, err := decodeIndex(mustHex(t, "0500"+"0200"+"01000000")); err == nil {
		t.Error("a message without an index is accepted")
	}
}

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzDecodeStatus(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 12, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := decodeStatus(b); err == nil && st == nil {
			t.Error("neither a status nor an error")
		}
	})
}

func FuzzDecodeInfo(f *testing.F) {
	f.Add(uint32(3), []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5})
	f.Add(uint32(3), []byte{0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, typ uint32, data []byte) {
		x, err := decodeInfo([]reply{{typ, data}})
		if err == nil && x.size < 0 {
			t.Errorf("size %d", x.size)
		}
	})
}
