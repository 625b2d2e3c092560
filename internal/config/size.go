package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written by people as 4096, 512M or 1GiB.
type Size int64

// Binary units. Decimal ones (MB, GB) do not exist here: a device is counted in blocks of 4 KiB
// and a decimal size would hardly ever be a multiple of one.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var sizeUnits = map[string]Size{
	"": 1, "B": 1,
	"K": KiB, "k": KiB, "KiB": KiB,
	"M": MiB, "m": MiB, "MiB": MiB,
	"G": GiB, "g": GiB, "GiB": GiB,
	"T": TiB, "t": TiB, "TiB": TiB,
}

// ParseSize reads a whole number followed by a unit with nothing in between: none or B for bytes,
// K, M, G, T (each the same as KiB, MiB, GiB, TiB, powers of 1024). The result is exact and never
// negative. Fractions, signs, spaces and decimal units are errors.
func ParseSize(s string) (Size, error) {
	digits := 0
	for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' {
		digits++
	}
	if digits == 0 {
		return 0, fmt.Errorf("size %q does not begin with a digit; write for example 512MiB or 1GiB", s)
	}
	unit, ok := sizeUnits[s[digits:]]
	if !ok {
		return 0, fmt.Errorf("size %q has an unknown unit %q; %s", s, s[digits:], unitHint(s[digits:]))
	}
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) {
		return 0, fmt.Errorf("size %q does not fit in 63 bits", s)
	}
	return Size(n) * unit, nil
}

// unitHint tells what to write in place of a unit that is not known.
func unitHint(unit string) string {
	if strings.HasPrefix(unit, ".") {
		return "write a whole number of a smaller unit (1536MiB for 1.5 GiB)"
	}
	up := strings.ToUpper(unit)
	for _, letter := range []string{"K", "M", "G", "T"} {
		if up == letter+"B" || up == letter+"IB" {
			return "write " + letter + "iB (units are powers of 1024)"
		}
	}
	return "the units are B, KiB, MiB, GiB and TiB"
}

// String writes s with the largest unit that keeps it exact, so that ParseSize returns it.
func (s Size) String() string {
	switch {
	case s == 0:
		return "0"
	case s%TiB == 0:
		return strconv.FormatInt(int64(s/TiB), 10) + "TiB"
	case s%GiB == 0:
		return strconv.FormatInt(int64(s/GiB), 10) + "GiB"
	case s%MiB == 0:
		return strconv.FormatInt(int64(s/MiB), 10) + "MiB"
	case s%KiB == 0:
		return strconv.FormatInt(int64(s/KiB), 10) + "KiB"
	}
	return strconv.FormatInt(int64(s), 10)
}

// Set lets a Size be a command line flag.
func (s *Size) Set(text string) error {
	v, err := ParseSize(text)
	if err == nil {
		*s = v
	}
	return err
}

// Type names the value in help texts.
func (s *Size) Type() string { return "size" }
