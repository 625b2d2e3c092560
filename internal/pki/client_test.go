package pki

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestOpenClient_WhatWriteClientWrote_IsBelievedByNodes(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "c1", c)
	creds := issue(t, a, Subject{Role: RoleClient, Name: "app"}, time.Hour)
	dir := filepath.Join(t.TempDir(), "client")
	must(t, WriteClient(dir, creds, a.Bundle()))
	id, err := OpenClient(dir, c.now)
	must(t, err)
	if s := id.Self(); s.Name != "app" || s.Role != RoleClient {
		t.Errorf("it is of %v", s)
	}
	node := nodeIdentity(t, c, a, "n1")
	_, atServer, atClient := meet(t, node.ServerConfig(KindNBD), id.ClientConfig(KindNBD, "n1"))
	must(t, atServer)
	must(t, atClient)
}

func TestOpenClient_KeyThatOthersMayRead_IsRefused(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "c1", c)
	dir := t.TempDir()
	must(t, WriteClient(dir, issue(t, a, Subject{Role: RoleClient, Name: "app"}, time.Hour), a.Bundle()))
	must(t, os.Chmod(filepath.Join(dir, "client-key.pem"), 0o644))
	if _, err := OpenClient(dir, c.now); err == nil {
		t.Error("it is used")
	}
}
