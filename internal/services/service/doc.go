// Package service is the words in which an operator says what follows a primary: which kinds of services there
// are, their options, and what is wrong with them. It runs nothing, and does not know whether what it names
// exists. The command line, the API, the ledger's record and the keeper of services share it.
package service
