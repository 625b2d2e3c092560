package config

import (
	"strings"
	"testing"
)

func TestValidate_WithCertificates_OnlyWhatStaysInTheClearNeedsAllowNetwork(t *testing.T) {
	const wide = "10.0.0.1:1"
	for name, tc := range map[string]struct {
		edit func(*Node)
		says string // "": accepted
	}{
		"nodes":              {func(n *Node) { n.Listen, n.GossipListen = wide, "10.0.0.1:2" }, ""},
		"nbd, by default":    {func(n *Node) { n.NBDListen = wide }, ""},
		"nbd, off by choice": {func(n *Node) { n.NBDListen, n.NBDTLS = wide, TLSOff }, ""},
		"health":             {func(n *Node) { n.HealthListen = wide }, "health_listen"},
		"no certificates":    {func(n *Node) { n.PKIDir, n.Listen = "", wide }, "cluster init"},
		"nbd_tls alone":      {func(n *Node) { n.PKIDir, n.NBDTLS = "", TLSAllowed }, "no pki_dir"},
		"plain alone":        {func(n *Node) { n.PKIDir, n.ReplicationTLS = "", false }, "no pki_dir"},
		"odd mode":           {func(n *Node) { n.NBDTLS = "yes" }, "nbd_tls"},
		"certs without TLS":  {func(n *Node) { n.NBDListen, n.NBDClientCerts = "127.0.0.1:9", ClientCertsRequired }, "nbd_tls = \"required\""},
		"certs with TLS":     {func(n *Node) { n.NBDListen, n.NBDClientCerts = wide, ClientCertsRequired }, ""},
	} {
		n := DefaultNode()
		n.Name, n.Cluster, n.Key, n.PKIDir = "a", "c", NewKey(), "/pki"
		n.Nodes = []Peer{{Name: "a", Addr: "127.0.0.1:1", Gossip: "127.0.0.1:2"}}
		n.Resolve("/")
		tc.edit(&n)
		err := n.Validate()
		if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNBDMode_FollowsTheAddress(t *testing.T) {
	for _, tc := range []struct{ pki, listen, set, want string }{
		{"", "10.0.0.1:1", "", TLSOff}, {"/p", "10.0.0.1:1", "", TLSRequired}, {"/p", ":1", "", TLSRequired},
		{"/p", "127.0.0.1:1", "", TLSAllowed}, {"/p", "host:1", "", TLSRequired}, {"/p", "10.0.0.1:1", TLSOff, TLSOff},
	} {
		n := Node{PKIDir: tc.pki, NBDListen: tc.listen, NBDTLS: tc.set}
		if got := n.NBDMode(); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}
