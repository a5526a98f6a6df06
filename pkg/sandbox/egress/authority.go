package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"sync"
	"time"
)

// clockSkew is how far a sandbox's clock may be off.
const clockSkew = time.Hour

// authority signs the certificates by which the proxy impersonates the hosts of
// injections to sandboxes. Its key exists in memory only, and the authority is
// valid only for those hosts, which limits the damage of a leaked key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte

	mu     sync.Mutex
	leaves map[string]*tls.Certificate // by host
}

func newAuthority(injections []Injection, life time.Duration) (*authority, error) {
	now := time.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "dreamcore egress"},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true,
	}
	for _, i := range injections {
		if a, ok := i.Target.addr(); ok {
			template.PermittedIPRanges = append(template.PermittedIPRanges, &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())})
		} else {
			template.PermittedDNSDomains = append(template.PermittedDNSDomains, i.Target.Host)
		}
	}
	// A kind of name without permitted names would be unrestricted.
	if len(template.PermittedDNSDomains) == 0 {
		template.ExcludedDNSDomains = []string{""}
	}
	if len(template.PermittedIPRanges) == 0 {
		template.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	}
	der, key, err := sign(template, template, nil)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{
		cert: cert, key: key, leaves: map[string]*tls.Certificate{},
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// leaf returns the certificate for a host, which is valid as long as the authority.
func (a *authority) leaf(t Target) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.leaves[t.Host]; c != nil {
		return c, nil
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "dreamcore egress host"},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if addr, ok := t.addr(); ok {
		template.IPAddresses = []net.IP{addr.AsSlice()}
	} else {
		template.DNSNames = []string{t.Host}
	}
	der, key, err := sign(template, a.cert, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	a.leaves[t.Host] = c
	return c, nil
}

// sign creates a key and a certificate for it, signed by the key of parent or, if by
// is nil, by itself.
func sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (der []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	if by == nil {
		by = key
	}
	// Without a serial number in the template, a random one is chosen.
	der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	return der, key, err
}
