package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

const testKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

const small = `
name = "n1"
cluster = "c1"
data_dir = "/data"
key = "` + testKey + `"
[[node]]
name = "n1"
addr = "127.0.0.1:7780"
gossip = "127.0.0.1:7781"
`

// write puts text in a file of the given mode and returns its path.
func write(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad_SmallestFileGetsTheDefaults(t *testing.T) {
	n, err := Load(write(t, "node.toml", small, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultNode()
	want.Name, want.Cluster, want.DataDir = "n1", "c1", "/data"
	want.ControlSocket, want.NBDUnix = "/data/control.sock", "/data/nbd.sock"
	want.Key, _ = ParseKey(testKey)
	want.Nodes = []Peer{{Name: "n1", Addr: "127.0.0.1:7780", Gossip: "127.0.0.1:7781"}}
	if !reflect.DeepEqual(n, want) {
		t.Errorf("got  %+v\nwant %+v", n, want)
	}
}

func TestLoad_ReportsEveryFaultAtOnceWithItsLine(t *testing.T) {
	text, err := os.ReadFile("testdata/faults.toml")
	if err != nil {
		t.Fatal(err)
	}
	d := parse("faults.toml", "/etc/lockstep", text)
	_, err = d.finish()
	if err == nil {
		t.Fatal("accepted")
	}
	golden := "testdata/faults.golden"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, rerr := os.ReadFile(golden)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if err.Error()+"\n" != string(want) {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestLoad_TimingPresetYieldsToWhatIsWritten(t *testing.T) {
	n, err := Load(write(t, "node.toml", "lease = \"5s\"\ntiming = \"wan\"\ndrop_grace = \"0s\"\n"+small, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if n.Lease != 5*time.Second || n.DropGrace != 0 || n.BeaconInterval != 500*time.Millisecond {
		t.Errorf("lease %v, drop grace %v, beacon %v", n.Lease, n.DropGrace, n.BeaconInterval)
	}
}

func TestLoad_SecretIsNeverShown(t *testing.T) {
	secret := strings.TrimSuffix(testKey, "=")
	for name, text := range map[string]string{
		"bad base64": strings.Replace(small, testKey, secret, 1),
		"bad syntax": strings.Replace(small, testKey+`"`, secret, 1),
		"open mode":  small,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(write(t, "node.toml", text, 0o644))
			if err == nil || strings.Contains(err.Error(), secret[:20]) {
				t.Errorf("error: %v", err)
			}
		})
	}
	n, err := Load(write(t, "node.toml", small, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"%v", "%+v", "%#v"} {
		if s := fmt.Sprintf(f, n); strings.Contains(s, "1, 2, 3, 4") || strings.Contains(s, "1 2 3 4") || strings.Contains(s, "0x1, 0x2") {
			t.Errorf("%s shows the key: %s", f, s)
		}
	}
}

func TestLoad_KeyFileMustBePrivate(t *testing.T) {
	for _, tc := range []struct {
		mode os.FileMode
		text string
		ok   bool
	}{
		{0o600, testKey + "\n", true},
		{0o400, testKey, true},
		{0o640, testKey, false},
		{0o604, testKey, false},
		{0o600, "short", false},
		{0o600, "", false},
	} {
		keyPath := write(t, "key", tc.text, tc.mode)
		text := strings.Replace(small, `key = "`+testKey+`"`, `key_file = "`+keyPath+`"`, 1)
		n, err := Load(write(t, "node.toml", text, 0o644))
		if (err == nil) != tc.ok {
			t.Errorf("mode %v, text %q: %v", tc.mode, tc.text, err)
		}
		if tc.ok && n.Key.Encode() != testKey {
			t.Errorf("mode %v: another key", tc.mode)
		}
	}
}

func TestLoad_NetworkIsRefusedUntilAllowed(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "127.9.9.9:1": true,
		"0.0.0.0:1": false, ":1": false, "[::]:1": false, "192.168.1.1:1": false, "example.org:1": false,
		"127.0.0.1.example.org:1": false,
	} {
		for _, key := range []string{"nbd_listen", "health_listen"} {
			text := key + " = \"" + addr + "\"\n" + small
			if _, err := Load(write(t, "node.toml", text, 0o600)); (err == nil) != ok {
				t.Errorf("%s %s: %v", key, addr, err)
			}
			if _, err := Load(write(t, "node.toml", "allow_network = true\n"+text, 0o600)); err != nil {
				t.Errorf("%s %s with allow_network: %v", key, addr, err)
			}
		}
	}
}

func TestLoad_MissingFileIsNoFault(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"))
	var fs Faults
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &fs) {
		t.Errorf("error %v", err)
	}
}

func TestEncode_LoadsBackTheSame(t *testing.T) {
	n := DefaultNode()
	n.Name, n.Cluster, n.DataDir = "n1", "c\u00e91", `/data/"x\y`
	n.Cluster = "c1"
	n.Key = NewKey()
	n.Timing = "wan"
	n.applyTiming()
	n.Lease = 3 * time.Second
	n.Window = 8 * MiB
	n.Compression = CompressS2
	n.DirectIO = true
	n.HealthListen = "127.0.0.1:7783"
	n.Nodes = []Peer{
		{Name: "n1", Addr: "127.0.0.1:1", Gossip: "127.0.0.1:2"},
		{Name: "w", Addr: "127.0.0.1:3", Gossip: "127.0.0.1:4", Witness: true},
	}
	n.Resolve("/")
	got, err := Load(write(t, "node.toml", string(n.Encode()), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, n) {
		t.Errorf("got  %+v\nwant %+v", got, n)
	}
}

func TestParseSize_IsExact(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "512": 512, "512B": 512, "4K": 4096, "4KiB": 4096, "512M": 512 * MiB,
		"1GiB": GiB, "1g": GiB, "2T": 2 * TiB, "9223372036854775807": 1<<63 - 1, "8388607TiB": 8388607 * TiB,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "G", "-1", "+1", "1.5GiB", "1 GiB", " 1", "1GB", "1MB", "1kib", "0x10", "1e3", "9223372036854775808",
		"8388608TiB", "1GiB ", "99999999999999999999G", "1_000", "٣",
	} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d", text, got)
		}
	}
}

func TestParseSize_ReadsWhatStringWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Size(rapid.Int64Min(0).Draw(t, "n")) >> rapid.IntRange(0, 62).Draw(t, "right") << rapid.IntRange(0, 20).Draw(t, "left")
		if want < 0 {
			t.Skip("overflow")
		}
		if got, err := ParseSize(want.String()); err != nil || got != want {
			t.Fatalf("%d as %q: %d, %v", want, want, got, err)
		}
	})
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"r0": true, "A-b_c.d": true, "0": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, ".": false, "..": false, "-a": false, "a/b": false,
		"a b": false, "é": false, "a\n": false, "a\x00": false,
	} {
		if err := CheckName("resource", name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// FuzzLoad parses any text: it must yield a Node that encodes and parses to itself, or Faults.
func FuzzLoad(f *testing.F) {
	faults, err := os.ReadFile("testdata/faults.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(faults)
	f.Add([]byte(small))
	f.Add([]byte(fenced))
	f.Add([]byte("[fence]\na.b.c = 1\n[fencing.nodes]\n\"\" = [[]]\n[watchdog]\n"))
	f.Add([]byte("node = [{name = \"a\"}, 1]"))
	f.Add([]byte("node.name = 1\n[timing]\nx = 1\n[[lease]]\n"))
	f.Add([]byte("name = \"a\"\nname = \"b\""))
	f.Add([]byte("[node]\n\"\" = 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := parse("f.toml", "/etc", data).finish()
		if err != nil {
			var fs Faults
			if !errors.As(err, &fs) || len(fs) == 0 || fs.Error() == "" {
				t.Fatalf("error of type %T: %v", err, err)
			}
			for _, fault := range fs {
				if fault.Message == "" {
					t.Fatalf("fault without a message: %+v", fault)
				}
			}
			return
		}
		again, err := parse("f.toml", "/etc", n.Encode()).finish()
		if err != nil || !reflect.DeepEqual(n, again) {
			t.Fatalf("not stable: %v\n%+v\n%+v", err, n, again)
		}
	})
}
