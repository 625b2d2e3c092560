// Package tests holds the black-box tests: real lockstep processes, real clients, real files, and
// observations from outside. What a test knows of the product it has from its NBD export, its
// command line, its control API and its backing files.
//
// Each test has a cluster of its own on tmpfs and checks at its end what always has to hold: nobody
// crashed, and replicas that are in sync are identical. docs/scenarios.md lists which test covers
// which fault.
package tests
