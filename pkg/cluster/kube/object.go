package kube

import "net"

// metadata is what objects have in common.
type metadata struct {
	Name            string            `json:"name,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
}

// configMap is the JSON form of a ConfigMap. Objects of others are not replaced, so
// members that are not here need not be kept.
type configMap struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metadata          `json:"metadata"`
	Data       map[string]string `json:"data,omitempty"`
}

func configMapOf(m ConfigMap) configMap {
	return configMap{"v1", "ConfigMap", metadata{Name: m.Name, ResourceVersion: m.Version, Labels: m.Labels}, m.Data}
}

func (o configMap) ConfigMap() ConfigMap {
	return ConfigMap{Name: o.Metadata.Name, Version: o.Metadata.ResourceVersion, Data: o.Data, Labels: o.Metadata.Labels}
}

// status is the answer of the API server to a request that has failed, and the object
// of an event of the type ERROR.
type status struct {
	Message string `json:"message"`
	Code    int    `json:"code"`
}

// Endpoint is a pod of a service.
type Endpoint struct {
	Name    string // of the pod, as its host name
	Address string // HOST:PORT
	Serving bool   // its readiness probe succeeds, also while it terminates
}

// endpointSlice is the JSON form of a part of the endpoints of a service.
type endpointSlice struct {
	Metadata    metadata `json:"metadata"`
	AddressType string   `json:"addressType"`
	Endpoints   []struct {
		Addresses  []string `json:"addresses"`
		Hostname   string   `json:"hostname"`
		Conditions struct {
			Ready   *bool `json:"ready"`
			Serving *bool `json:"serving"`
		} `json:"conditions"`
	} `json:"endpoints"`
	Ports []struct {
		Name string `json:"name"`
		Port int    `json:"port"`
	} `json:"ports"`
}

// endpoints returns the pods of a slice that have a name. The port is the one called
// http, or the only one.
func (s endpointSlice) endpoints() (all []Endpoint) {
	port := 0
	for _, p := range s.Ports {
		if p.Name == "http" || len(s.Ports) == 1 {
			port = p.Port
		}
	}
	if port <= 0 || port > 65535 || s.AddressType == "FQDN" {
		return nil
	}
	for _, e := range s.Endpoints {
		if e.Hostname == "" || len(e.Addresses) == 0 || net.ParseIP(e.Addresses[0]) == nil {
			continue
		}
		// A service that publishes addresses that are not ready says that all are
		// ready; serving is what the probe has found.
		serving := e.Conditions.Serving
		if serving == nil {
			serving = e.Conditions.Ready
		}
		all = append(all, Endpoint{e.Hostname, joinPort(e.Addresses[0], port), serving == nil || *serving})
	}
	return all
}
