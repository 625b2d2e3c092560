package node

import (
	"slices"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

func TestStepped_EachStepKeepsWhatOthersMayStillUse(t *testing.T) {
	a, b, c := config.NewKey(), config.NewKey(), config.NewKey()
	for name, tc := range map[string]struct {
		have []config.Key
		step string
		want []config.Key // nil: refused
	}{
		"a new key is believed":                    {[]config.Key{a}, control.GossipKeyBelieve, []config.Key{a, c}},
		"said again":                               {[]config.Key{a, c}, control.GossipKeyBelieve, []config.Key{a, c}},
		"after a change that did not end":          {[]config.Key{b, a}, control.GossipKeyBelieve, []config.Key{b, a, c}},
		"too many changes that did not end":        {[]config.Key{a, b, config.NewKey(), config.NewKey(), config.NewKey()}, control.GossipKeyBelieve, nil},
		"what is believed is used":                 {[]config.Key{a, c}, control.GossipKeyUse, []config.Key{c, a}},
		"what is used is used":                     {[]config.Key{c, a}, control.GossipKeyUse, []config.Key{c, a}},
		"what is not believed is not used":         {[]config.Key{a}, control.GossipKeyUse, nil},
		"what is used remains alone":               {[]config.Key{c, a, b}, control.GossipKeyOnly, []config.Key{c}},
		"what is not used yet does not stay alone": {[]config.Key{a, c}, control.GossipKeyOnly, nil},
		"an unknown step":                          {[]config.Key{a, c}, "jump", nil},
	} {
		before := slices.Clone(tc.have)
		got, err := stepped(tc.have, tc.step, c)
		if !slices.Equal(got, tc.want) || (err == nil) != (tc.want != nil) || !slices.Equal(before, tc.have) {
			t.Errorf("%s: %d keys, %v", name, len(got), err)
		}
	}
}
