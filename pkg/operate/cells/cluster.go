// Package cells changes which cell of a cluster has which users: it moves users and
// slots, empties cells, and spreads the slots. The map of cells is an object of
// Kubernetes that is written by compare-and-swap; the steps of a move are requests to
// the two cells, see pkg/work/relocation.
//
// The files: cluster.go reaches the map and the cells, move.go moves one user or slot,
// plan.go many of them, command.go has the commands, view.go shows what they do.
package cells

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// Settings are where the cluster is.
type Settings struct {
	API       string // of Kubernetes, https://HOST:PORT
	Account   string // directory of the service account
	Service   string // whose pods are the cells
	Addresses string // file with the addresses of the cells; "" for the pods of Service
	Secret    string // of the cells
	UserAgent string
}

// Cell is a cell that takes part in a move; *client.Client implements it.
type Cell interface {
	Move(ctx context.Context, subject residence.Subject) (relocation.Status, error)
	HoldMove(ctx context.Context, subject residence.Subject, o relocation.HoldOptions) (relocation.Status, error)
	UserArchive(ctx context.Context, user dreamcore.UserID) (io.ReadCloser, error)
	SendUserArchive(ctx context.Context, user dreamcore.UserID, from, move string, archive io.Reader) (relocation.Status, error)
	ReleaseMove(ctx context.Context, subject residence.Subject, to, move string) (relocation.Status, error)
	AcceptMove(ctx context.Context, subject residence.Subject, move string, away []dreamcore.UserID) (relocation.Status, error)
	UndoMove(ctx context.Context, subject residence.Subject, move string) (relocation.Status, error)
}

// Maps keeps the map of cells.
type Maps interface {
	// Load returns the map and its version. The error is CodeNotFound if there is none.
	Load(ctx context.Context) (m *slots.Map, version string, err error)
	// Store replaces the map. The error is CodeConflict if it has changed since version.
	Store(ctx context.Context, m *slots.Map, version string) error
}

// Cluster reaches the map and the cells. The caller must Close it.
type Cluster struct {
	kube     *kube.Client
	settings Settings

	mu      sync.Mutex
	clients map[string]*client.Client // guarded by mu; by address
}

// Open opens a cluster.
func Open(s Settings) (*Cluster, error) {
	if s.API == "" {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "there is no API server: this is no pod of Kubernetes",
			Hint: "run it in a pod of the cluster, or pass --kubernetes-api and --kubernetes-account",
		}
	}
	k, err := kube.New(kube.Config{Server: s.API, Account: s.Account, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return &Cluster{kube: k, settings: s, clients: map[string]*client.Client{}}, nil
}

// Close closes idle connections.
func (c *Cluster) Close() {
	c.kube.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.clients {
		one.Close()
	}
}

// Load implements Maps.
func (c *Cluster) Load(ctx context.Context) (*slots.Map, string, error) {
	o, err := c.kube.ConfigMap(ctx, slots.Object)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil, "", &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "there is no map of cells yet", Hint: "make one with: dreamcore cells init", Err: err}
	}
	if err != nil {
		return nil, "", err
	}
	m, err := slots.Decode([]byte(o.Data[slots.Member]))
	return m, o.Version, err
}

// Store implements Maps.
func (c *Cluster) Store(ctx context.Context, m *slots.Map, version string) error {
	raw, err := m.Encode()
	if err != nil {
		return err
	}
	_, err = c.kube.Replace(ctx, kube.ConfigMap{Name: slots.Object, Version: version, Data: map[string]string{slots.Member: string(raw)}})
	return err
}

// Init makes the first map. The error is CodeConflict if there is one.
func (c *Cluster) Init(ctx context.Context, m *slots.Map) error {
	raw, err := m.Encode()
	if err != nil {
		return err
	}
	_, err = c.kube.Create(ctx, kube.ConfigMap{Name: slots.Object, Data: map[string]string{slots.Member: string(raw)}})
	if dreamcore.CodeOf(err) == dreamcore.CodeConflict {
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "there is a map of cells already", Hint: "see it with: dreamcore cells list", Err: err}
	}
	return err
}

// Addresses returns the addresses of the cells by name.
func (c *Cluster) Addresses(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	if c.settings.Addresses != "" {
		list, err := slots.ReadAddresses(c.settings.Addresses)
		if err != nil {
			return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "cannot use the file with the addresses of the cells, " + c.settings.Addresses, Err: err, Hint: "write NAME HOST:PORT on each line"}
		}
		for _, a := range list {
			all[a.Cell] = a.Address
		}
		return all, nil
	}
	endpoints, err := c.kube.Endpoints(ctx, c.settings.Service)
	for _, e := range endpoints {
		if all[e.Name] == "" || e.Serving { // of two pods with one name, the one that serves
			all[e.Name] = e.Address
		}
	}
	return all, err
}

// Cell returns a cell by name. The error is CodeUnreachable if it has no address.
func (c *Cluster) Cell(ctx context.Context, name string) (Cell, error) { return c.client(ctx, name) }

func (c *Cluster) client(ctx context.Context, name string) (*client.Client, error) {
	all, err := c.Addresses(ctx)
	if err != nil {
		return nil, err
	}
	address := all[name]
	if address == "" {
		return nil, &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: fmt.Sprintf("the cell %s has no address", name), Hint: "see whether its pod runs; the cells that are known: " + fmt.Sprint(slices.Sorted(maps.Keys(all)))}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if one := c.clients[address]; one != nil {
		return one, nil
	}
	one, err := client.New("http://"+address, client.Options{Secret: c.settings.Secret, UserAgent: c.settings.UserAgent})
	if err == nil {
		c.clients[address] = one
	}
	return one, err
}

// healthLimit bounds the question whether a cell serves.
const healthLimit = 3 * time.Second

// serves returns why a cell does not serve, or nil.
func (c *Cluster) serves(ctx context.Context, name string) error {
	one, err := c.client(ctx, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	_, err = one.Health(ctx)
	return err
}
