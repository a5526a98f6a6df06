package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const leases = "/apis/coordination.k8s.io/v1/namespaces/%s/leases"

// Lease is an object that one client renews. Version is that of its last change, ""
// before it exists.
type Lease struct {
	Name        string
	Version     string
	Holder      string
	Renewed     time.Time // to the microsecond
	Labels      map[string]string
	Annotations map[string]string
}

// lease is the JSON form of a Lease.
type lease struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       struct {
		HolderIdentity string `json:"holderIdentity,omitempty"`
		RenewTime      string `json:"renewTime,omitempty"`
	} `json:"spec"`
}

// microTime is the form of times in leases, RFC 3339 with microseconds.
const microTime = "2006-01-02T15:04:05.000000Z07:00"

func (o lease) Lease() Lease {
	renewed, _ := time.Parse(time.RFC3339, o.Spec.RenewTime) // zero if another client wrote something else
	return Lease{o.Metadata.Name, o.Metadata.ResourceVersion, o.Spec.HolderIdentity, renewed, o.Metadata.Labels, o.Metadata.Annotations}
}

// Lease returns a lease. The error is CodeNotFound if it does not exist.
func (c *Client) Lease(ctx context.Context, name string) (Lease, error) {
	var o lease
	err := c.do(ctx, http.MethodGet, c.path(leases, name), nil, &o)
	return o.Lease(), err
}

// PutLease creates a lease without a version, or replaces it, and returns it with its
// new version. The error is CodeConflict if it exists already, or has changed since
// that version.
func (c *Client) PutLease(ctx context.Context, l Lease) (Lease, error) {
	if l.Name == "" {
		return Lease{}, errors.New("kube: a lease without a name")
	}
	o := lease{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Metadata: metadata{Name: l.Name, ResourceVersion: l.Version, Labels: l.Labels, Annotations: l.Annotations}}
	o.Spec.HolderIdentity, o.Spec.RenewTime = l.Holder, l.Renewed.UTC().Format(microTime)
	method, path := http.MethodPut, c.path(leases, l.Name)
	if l.Version == "" {
		method, path = http.MethodPost, c.path(leases, "")
	}
	var got lease
	err := c.do(ctx, method, path, o, &got)
	return got.Lease(), err
}

// Leases returns the leases with a label, as the API server has them in memory.
func (c *Client) Leases(ctx context.Context, label, value string) ([]Lease, error) {
	var list struct {
		Items []lease `json:"items"`
	}
	query := url.Values{"labelSelector": {label + "=" + value}, "resourceVersion": {"0"}}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, c.path(leases, ""), query, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := readBounded(resp.Body, maxList)
	if err != nil {
		return nil, unreachable(err)
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("decode a list: %w", err)
	}
	all := make([]Lease, len(list.Items))
	for i, o := range list.Items {
		all[i] = o.Lease()
	}
	return all, nil
}
