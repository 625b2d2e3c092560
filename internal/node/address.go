package node

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
)

// carriesAddress reports whether rec was made to carry an address (lockstep vip), and no data: by its name, its
// size, how its files are called, and because not one byte was ever written to it.
func carriesAddress(rec *quorum.Resource, s spec) bool {
	return strings.HasPrefix(rec.Name, control.VIPPrefix) && rec.SizeBytes == control.VIPBytes && !s.takeIn &&
		strings.HasSuffix(s.dataPath, "/"+rec.Name+".img") && s.metaPath == s.dataPath+".meta" && blank(s.dataPath)
}

// blank reports whether the file at path holds zeros only, or is not there: then there is nothing to lose.
func blank(path string) bool {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil || !info.Mode().IsRegular() || info.Size() != control.VIPBytes {
		return false
	}
	b, err := os.ReadFile(path)
	return err == nil && len(bytes.Trim(b, "\x00")) == 0
}
