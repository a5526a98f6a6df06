package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/route"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// The object of Kubernetes with the map of cells, and its member.
const (
	mapObject = "dreamcore-cells"
	mapMember = "map.json"
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
	return kubeSource(client, cfg.CellsService, table, watch, o.Logger), nil
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

// kubeSource follows the map and the endpoints in Kubernetes. What was seen last stays
// in force while the API server is away, and if the map is damaged or removed.
func kubeSource(client *kube.Client, service string, table *route.Table, watch kube.Observer, log *slog.Logger) func(context.Context) {
	return func(ctx context.Context) {
		var both sync.WaitGroup
		both.Go(func() {
			client.FollowConfigMap(ctx, mapObject, watch, func(o kube.ConfigMap, ok bool) {
				if !ok {
					log.Error("the map of cells does not exist; the last one stays in force", "object", mapObject)
					return
				}
				m, err := slots.Decode([]byte(o.Data[mapMember]))
				if err != nil {
					log.Error("the map of cells is not taken over; the last one stays in force", "object", mapObject, "error", err)
					return
				}
				log.Info("the map of cells has changed", "generation", m.Generation(), "cells", len(m.Cells()))
				table.SetMap(m)
			})
		})
		both.Go(func() {
			client.FollowEndpoints(ctx, service, watch, func(endpoints []kube.Endpoint) {
				cells := make([]route.Cell, 0, len(endpoints))
				for _, e := range endpoints {
					cells = append(cells, route.Cell{Name: e.Name, Address: e.Address, Serving: e.Serving})
				}
				table.SetCells(cells)
			})
		})
		both.Wait()
	}
}

// maxCellsFile bounds the file with the names and addresses of cells.
const maxCellsFile = 256 << 10

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

// parseCells parses a file with a cell on each line: its name and HOST:PORT. Lines
// that begin with # are comments.
func parseCells(text string) (cells []route.Cell, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: it must be NAME HOST:PORT", n)
		}
		host, port, err := net.SplitHostPort(fields[1])
		if err != nil || host == "" || port == "" || port == "0" {
			return nil, fmt.Errorf("line %d: %.100q is not an address HOST:PORT", n, fields[1])
		}
		if slices.ContainsFunc(cells, func(c route.Cell) bool { return c.Address == fields[1] }) {
			return nil, fmt.Errorf("line %d: two cells have the address %s", n, fields[1])
		}
		cells = append(cells, route.Cell{Name: fields[0], Address: fields[1]})
	}
	return cells, nil
}

// fileSource reads the cells of a file, which share the slots evenly, and asks them
// whether they serve, as Kubernetes does.
func fileSource(file string, table *route.Table, log *slog.Logger) (func(context.Context), error) {
	raw, err := readSmall(file, maxCellsFile)
	var cells []route.Cell
	if err == nil {
		cells, err = parseCells(string(raw))
	}
	var m *slots.Map
	if err == nil {
		names := make([]string, 0, len(cells))
		for _, c := range cells {
			names = append(names, c.Name)
		}
		m, err = slots.Even(names)
	}
	if err != nil {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "cannot use the file with the cells, " + file, Err: err, Hint: "write NAME HOST:PORT on each line"}
	}
	table.SetMap(m)
	return func(ctx context.Context) { probeCells(ctx, cells, table, log) }, nil
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
