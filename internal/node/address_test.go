package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
)

func TestCarriesAddress_OnlyWhatWasMadeForIt_AndNeverWritten(t *testing.T) {
	dir := t.TempDir()
	image := func(name string, size int64, write bool) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if write {
			if _, err := f.WriteAt([]byte{1}, size-1); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	at := func(path string) spec { return spec{dataPath: path, metaPath: path + ".meta"} }
	web := at(image("vip-web.img", control.VIPBytes, false))
	taken, elsewhere := web, web
	taken.takeIn, elsewhere.metaPath = true, filepath.Join(dir, "meta")
	link := filepath.Join(dir, "link", "vip-web.img")
	if err := os.Mkdir(filepath.Dir(link), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(web.dataPath, link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		why  string
		name string
		size int64
		s    spec
		want bool
	}{
		{"made by lockstep vip", "vip-web", control.VIPBytes, web, true},
		{"its file is removed already", "vip-two", control.VIPBytes, at(filepath.Join(dir, "vip-two.img")), true},
		{"another name", "web", control.VIPBytes, at(image("web.img", control.VIPBytes, false)), false},
		{"another file", "vip-other", control.VIPBytes, web, false},
		{"another size", "vip-web", 2 * control.VIPBytes, web, false},
		{"the file is longer", "vip-long", control.VIPBytes, at(image("vip-long.img", 2*control.VIPBytes, false)), false},
		{"an existing file that was taken in", "vip-web", control.VIPBytes, taken, false},
		{"metadata elsewhere", "vip-web", control.VIPBytes, elsewhere, false},
		{"a link to it", "vip-web", control.VIPBytes, at(link), false},
		{"one byte was written", "vip-used", control.VIPBytes, at(image("vip-used.img", control.VIPBytes, true)), false},
	} {
		if got := carriesAddress(&quorum.Resource{Name: tc.name, SizeBytes: tc.size}, tc.s); got != tc.want {
			t.Errorf("%s: %t, want %t", tc.why, got, tc.want)
		}
	}
}
