package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/nbd"
)

func TestExports_ASecondaryNamesAnAddressOfThePrimaryThatCanBeDialed(t *testing.T) {
	for _, tc := range []struct{ listen, tls, want string }{
		{"0.0.0.0:10809", "", "nbd://10.0.0.1:10809/r0"},
		{"[::]:10809", config.TLSRequired, "nbds://10.0.0.1:10809/r0"},
		{"192.168.7.1:10809", "", "nbd://192.168.7.1:10809/r0"},
		{"127.0.0.1:10809", "", "nbd+unix:///r0?socket=%2Frun%2Fnbd.sock"}, // for its own host only
		{"", "", "nbd+unix:///r0?socket=%2Frun%2Fnbd.sock"},
	} {
		c := promoted(t)
		n1 := c.nodes["n1"]
		n1.facts.nbdTCP = func() string { return tc.listen }
		n1.cfg.NBDListen, n1.cfg.NBDTLS = tc.listen, tc.tls
		e := &exports{m: c.nodes["n2"].m, asker: c, addr: func(node string) string { return map[string]string{"n1": "10.0.0.1:7780"}[node] }}
		_, err := e.Lookup(t.Context(), "r0")
		var refused *nbd.ErrNotServed
		if !errors.As(err, &refused) || !strings.HasSuffix(refused.Reason, "its primary is n1: connect to "+tc.want) {
			t.Errorf("listens on %q (TLS %q): %v", tc.listen, tc.tls, err)
		}
	}
}
