package rig

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// module is one kernel module and what it says of itself.
type module struct {
	path  string
	needs []string
}

// Modules returns the files of the named modules, each after those it needs: the order to load them in. A
// package that is not installed has no modules.dep, so the modules themselves are asked.
func (k Kernel) Modules(names ...string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			files[moduleName(strings.TrimSuffix(filepath.Base(path), ".ko"))] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []string
	done := map[string]bool{}
	var visit func(name, wantedBy string) error
	visit = func(name, wantedBy string) error {
		name = moduleName(name)
		if done[name] {
			return nil
		}
		done[name] = true
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("kernel %s: no module %s, wanted by %s; is its folder among those that are unpacked?", k.Version, name, wantedBy)
		}
		m, err := readModule(path)
		if err != nil {
			return err
		}
		for _, n := range m.needs {
			if err := visit(n, name); err != nil {
				return err
			}
		}
		order = append(order, path)
		return nil
	}
	for _, n := range names {
		if err := visit(n, "the test"); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is the kernel's spelling: files may have a hyphen where the module has an underscore.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// readModule reads the section in which a module lists what it needs.
func readModule(path string) (module, error) {
	m := module{path: path}
	f, err := elf.Open(path)
	if err != nil {
		return m, fmt.Errorf("module %s: %w", path, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return m, fmt.Errorf("module %s: no .modinfo", path)
	}
	data, err := s.Data()
	if err != nil {
		return m, fmt.Errorf("module %s: %w", path, err)
	}
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			m.needs = strings.Split(list, ",")
		}
	}
	// ext4 and xfs ask for crc32c when they are mounted; the kernel would call modprobe, which is not there.
	if base := filepath.Base(path); base == "ext4.ko" || base == "xfs.ko" || base == "libcrc32c.ko" {
		m.needs = append(m.needs, "crc32c_generic")
	}
	return m, nil
}
