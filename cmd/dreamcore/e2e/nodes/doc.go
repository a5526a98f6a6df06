// Package nodes tests cells and routers on a Kubernetes cluster of two nodes, which
// scripts/cluster.sh brings up on this machine. Its tests have the build tag cluster and
// run in the network of the control plane.
package nodes
