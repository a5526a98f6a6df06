package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"
)

// SecretHeader carries the internal secret. Authorization: Bearer works as well.
const SecretHeader = "X-Modal-Secret"

// authorized reports whether a request carries a valid secret. Its duration
// depends only on lengths: hashing makes all comparisons equally long, and the
// secret is compared with every valid one.
func authorized(h http.Header, valid []string) bool {
	given, ok := givenSecret(h)
	if !ok {
		return false
	}
	sum := sha256.Sum256([]byte(given))
	match := 0
	for _, secret := range valid {
		if secret == "" {
			continue
		}
		want := sha256.Sum256([]byte(secret))
		match |= subtle.ConstantTimeCompare(sum[:], want[:])
	}
	return match == 1
}

// givenSecret returns the secret of a request. It refuses a request with two
// different ones, because a proxy in front of the service might check the other
// one. Authorization in other schemes than Bearer is ignored.
func givenSecret(h http.Header) (secret string, ok bool) {
	given := slices.Clone(h.Values(SecretHeader))
	if len(given) > 1 {
		return "", false
	}
	for _, v := range h.Values("Authorization") {
		scheme, token, _ := strings.Cut(v, " ")
		if strings.EqualFold(scheme, "Bearer") {
			given = append(given, strings.TrimLeft(token, " "))
		}
	}
	if len(given) == 0 || given[0] == "" {
		return "", false
	}
	for _, other := range given[1:] {
		if subtle.ConstantTimeCompare([]byte(other), []byte(given[0])) != 1 {
			return "", false
		}
	}
	return given[0], true
}

func anySecret(secrets []string) bool {
	for _, s := range secrets {
		if s != "" {
			return true
		}
	}
	return false
}
