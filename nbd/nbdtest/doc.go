// Package nbdtest has what tests of NBD servers and backends share: a backend in memory and a
// small client that shows every byte it gets. Neither is for use outside tests.
package nbdtest
