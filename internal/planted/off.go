//go:build !plantedbugs

package planted

// On reports whether bug b is planted: never, in this build.
func On(Bug) bool { return false }
