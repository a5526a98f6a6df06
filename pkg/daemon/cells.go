package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/route"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// openSource opens what the table learns of cells from: a file, or Kubernetes. The
// source feeds the table until its context ends.
func (r *Router) openSource(cfg config.Config, o RouterOptions, table *route.Table) (source func(context.Context), err error) {
	if cfg.Cells != "" {
		r.cells = cfg.Cells
		return fileSource(cfg.Cells, table, o.Logger)
	}
	client, err := openKubernetes(cfg, o.Env, o.Logger)
	if dreamcore.CodeOf(err) == dreamcore.CodeInvalid && cfg.KubernetesAPI == "" {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "the router has no cells: it does not run in Kubernetes, and no file names them",
			Hint: "name the cells in a file, NAME HOST:PORT on each line, and pass it with --cells",
		}
	}
	if err != nil {
		return nil, err
	}
	r.undo.addClose(func() error { client.Close(); return nil })
	r.cells = client.Server()
	watch := kube.Observer{Failed: func(error) { r.router.SourceFailed() }}
	if cfg.CellAddresses == "" {
		return kubeSource(client, table, watch, o.Logger, func(ctx context.Context) {
			client.FollowEndpoints(ctx, cfg.CellsService, watch, func(endpoints []kube.Endpoint) {
				cells := make([]route.Cell, 0, len(endpoints))
				for _, e := range endpoints {
					cells = append(cells, route.Cell{Name: e.Name, Address: e.Address, Serving: e.Serving})
				}
				table.SetCells(cells)
			})
		}), nil
	}
	cells, err := readCells(cfg.CellAddresses)
	if err != nil {
		return nil, err
	}
	return kubeSource(client, table, watch, o.Logger, func(ctx context.Context) { probeCells(ctx, cells, table, o.Logger) }), nil
}

// openKubernetes returns a client of the API server. The error is CodeInvalid if
// neither the settings nor the environment name one.
func openKubernetes(cfg config.Config, env config.Environment, log *slog.Logger) (*kube.Client, error) {
	api := cmp.Or(cfg.KubernetesAPI, env.KubernetesAPI)
	if api == "" {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "there is no API server of Kubernetes: this does not run in Kubernetes, and kubernetes_api is not set",
			Hint: "set kubernetes_api to https://HOST:PORT",
		}
	}
	return kube.New(kube.Config{Server: api, Account: cfg.KubernetesAccount, Logger: log})
}

// kubeSource follows the map in Kubernetes, and addresses. The last state that was seen stays in
// force while the API server is away, and if the map is damaged or removed.
func kubeSource(client *kube.Client, table *route.Table, watch kube.Observer, log *slog.Logger, addresses func(context.Context)) func(context.Context) {
	return func(ctx context.Context) {
		var both sync.WaitGroup
		both.Go(func() {
			client.FollowConfigMap(ctx, slots.Object, watch, func(o kube.ConfigMap, ok bool) {
				if !ok {
					log.Error("the map of cells does not exist; the last one stays in force", "object", slots.Object)
					return
				}
				m, err := slots.Decode([]byte(o.Data[slots.Member]))
				if err != nil {
					log.Error("the map of cells is not taken over; the last one stays in force", "object", slots.Object, "error", err)
					return
				}
				log.Info("the map of cells has changed", "generation", m.Generation(), "cells", len(m.Cells()))
				table.SetMap(m)
			})
		})
		both.Go(func() { addresses(ctx) })
		both.Wait()
	}
}

// readSmall reads a file of a bounded size.
func readSmall(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", file, limit)
	}
	return raw, err
}

// fileSource reads the cells of a file, which share the slots evenly, and asks them
// whether they serve, as Kubernetes does.
func fileSource(file string, table *route.Table, log *slog.Logger) (func(context.Context), error) {
	cells, err := readCells(file)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(cells))
	for _, c := range cells {
		names = append(names, c.Name)
	}
	m, err := slots.Even(names)
	if err != nil {
		return nil, badCells(file, err)
	}
	table.SetMap(m)
	return func(ctx context.Context) { probeCells(ctx, cells, table, log) }, nil
}

// readCells reads a file with the addresses of cells.
func readCells(file string) (cells []route.Cell, err error) {
	addresses, err := slots.ReadAddresses(file)
	if err != nil {
		return nil, badCells(file, err)
	}
	for _, a := range addresses {
		cells = append(cells, route.Cell{Name: a.Cell, Address: a.Address})
	}
	return cells, nil
}

func badCells(file string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "cannot use the file with the cells, " + file, Err: err, Hint: "write NAME HOST:PORT on each line"}
}

const (
	healthEvery = time.Second
	healthLimit = 3 * time.Second
)

// probeCells asks each cell every second whether it serves, until ctx ends.
func probeCells(ctx context.Context, cells []route.Cell, table *route.Table, log *slog.Logger) {
	client := &http.Client{Timeout: healthLimit, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		var all sync.WaitGroup
		now := slices.Clone(cells)
		for i := range now {
			all.Go(func() {
				err := probeCell(ctx, client, now[i].Address)
				if now[i].Serving = err == nil; ctx.Err() == nil && (now[i].Serving != cells[i].Serving || first) {
					log.Info("the state of a cell", "cell", now[i].Name, "serves", now[i].Serving, "error", err)
				}
			})
		}
		all.Wait()
		if first || !slices.Equal(now, cells) {
			table.SetCells(now)
		}
		cells = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// probeCell returns why a cell does not serve, or nil.
func probeCell(ctx context.Context, client *http.Client, address string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/health", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
