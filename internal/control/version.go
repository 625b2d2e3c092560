package control

import (
	"runtime/debug"
	"sync"
)

// version is set by the release build:
// -ldflags "-X github.com/lockstep-ha/lockstep/internal/control.version=v1.2.3".
var version string

// Version names this build: what the release build set, else what the Go tool recorded, else
// "devel".
var Version = sync.OnceValue(func() string {
	if version != "" {
		return version
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return "devel"
})
