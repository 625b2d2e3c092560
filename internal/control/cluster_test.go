package control

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"
)

// formed is what the fake answers when it forms a cluster.
var formed = struct {
	token TokenGrant
	cert  CertGrant
	sec   Security
}{
	TokenGrant{Token: "lockstep-x", Expires: time.Unix(9, 0).UTC(), Addr: "a:1"},
	CertGrant{Certificate: []byte{1, 2}, Bundle: []byte("pem")},
	Security{Links: "plain", CertificateEnds: time.Unix(8, 0).UTC(), Signs: true, Problem: "soon"},
}

func (f *fake) Token(_ context.Context, r TokenRequest) (TokenGrant, error) {
	return formed.token, f.note("token %+v", r)
}
func (f *fake) ClientCert(_ context.Context, r CertRequest) (CertGrant, error) {
	return formed.cert, f.note("cert %+v", r)
}
func (f *fake) GossipKey(_ context.Context, req GossipKey) error {
	return f.note("gossip key %s %s", req.Step, req.Key)
}
func (f *fake) Renew(context.Context) (Security, error) { return formed.sec, f.note("renew") }
func (f *fake) RemoveNode(_ context.Context, r RemoveNode) error {
	return f.note("remove %+v", r)
}

func TestFormer_CallsReachTheBackendAndAnswersComeBack(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	tok, err := c.Token(t.Context(), TokenRequest{TTL: time.Minute, Node: "n2", Replace: true})
	if err != nil || tok != formed.token || f.take() != "token {TTL:1m0s Node:n2 Replace:true}" {
		t.Errorf("token: %+v, %v", tok, err)
	}
	cert, err := c.ClientCert(t.Context(), CertRequest{Name: "vm1", CSR: []byte{7}})
	if err != nil || !reflect.DeepEqual(cert, formed.cert) || f.take() != "cert {Name:vm1 CSR:[7]}" {
		t.Errorf("certificate: %+v, %v", cert, err)
	}
	sec, err := c.Renew(t.Context())
	if err != nil || sec != formed.sec || f.take() != "renew" {
		t.Errorf("renew: %+v, %v", sec, err)
	}
	if err := c.RemoveNode(t.Context(), RemoveNode{Node: "n3", Force: true}); err != nil || f.take() != "remove {Node:n3 Force:true}" {
		t.Errorf("remove: %v", err)
	}
}

func TestFormer_WhatMakesNoSenseReachesNobody(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	for name, call := range map[string]func() error{
		"replace nobody":  func() error { _, err := c.Token(t.Context(), TokenRequest{Replace: true}); return err },
		"odd node":        func() error { _, err := c.Token(t.Context(), TokenRequest{Node: "a/b"}); return err },
		"nameless client": func() error { _, err := c.ClientCert(t.Context(), CertRequest{}); return err },
		"remove nobody":   func() error { return c.RemoveNode(t.Context(), RemoveNode{}) },
	} {
		if err := call(); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := f.take(); got != "" {
		t.Errorf("called %s", got)
	}
}
