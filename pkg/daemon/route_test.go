package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// routerConfig returns the settings of a router in front of cells.
func routerConfig(t *testing.T, cells string, environ ...string) config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cells")
	if err := os.WriteFile(file, []byte(cells), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Sources{Environ: append([]string{"HOME=" + t.TempDir(), "DREAMCORE_LISTEN=127.0.0.1:0", "DREAMCORE_HOLD=2s"}, environ...), Flags: map[string]any{"cells": file}})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func routerOptions(inherited ...*os.File) RouterOptions {
	return RouterOptions{Version: "v", Logger: slog.New(slog.DiscardHandler), Redactor: &secret.Redactor{}, Inherited: inherited}
}

func body(t *testing.T, address string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func TestARouterServesInFrontOfTheCellsOfAFile(t *testing.T) {
	healthy := make(chan bool, 1)
	healthy <- true
	cell := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ok := <-healthy
		healthy <- ok
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "the cell")
	}))
	defer cell.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	cfg := routerConfig(t, "cell-0 "+strings.TrimPrefix(cell.URL, "http://"), "DREAMCORE_METRICS_LISTEN=127.0.0.1:0")
	cfg.Listen = ln.Addr().String()
	r, err := StartRouter(t.Context(), cfg, routerOptions(socket))
	if err != nil {
		t.Fatal(err)
	}
	if r.URL() != "http://"+ln.Addr().String() || r.Cells() != cfg.Cells {
		t.Errorf("%s, %s", r.URL(), r.Cells())
	}
	if status, text := body(t, r.URL()+"/health"); status != 200 || text != "the cell" {
		t.Errorf("%d %s", status, text)
	}
	if status, _ := body(t, r.URL()+"/readyz"); status != 200 {
		t.Errorf("readyz: %d", status)
	}
	metric := func(want string) bool {
		status, text := body(t, "http://"+r.metrics.Addr().String()+"/metrics")
		return status == 200 && strings.Contains(text, want+"\n")
	}
	if !metric("dreamcore_route_cells_serving 1") || !metric(`dreamcore_build_info{version="v"} 1`) {
		t.Error("metrics are missing")
	}
	<-healthy
	healthy <- false
	for end := time.Now().Add(30 * time.Second); !metric("dreamcore_route_cells_serving 0"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a cell that does not serve is not noticed")
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	// The socket is the supervisor's: the next router takes over.
	again, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestARouterThatCannotStartSaysWhy(t *testing.T) {
	cell := "cell-0 127.0.0.1:1"
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cfg  config.Config
		code dreamcore.Code
	}{
		"no cells":             {routerConfig(t, "# none"), dreamcore.CodeInvalid},
		"one name twice":       {routerConfig(t, "a h:1\na h:2"), dreamcore.CodeInvalid},
		"a bad name":           {routerConfig(t, "A h:1"), dreamcore.CodeInvalid},
		"a short key":          {routerConfig(t, cell, "DREAMCORE_PREVIEW_KEY_FILE="+key), dreamcore.CodeSetup},
		"no key":               {routerConfig(t, cell, "DREAMCORE_PREVIEW_KEY_FILE=/nonexistent"), dreamcore.CodeSetup},
		"a key without domain": {routerConfig(t, cell, "DREAMCORE_PREVIEW_KEY_FILE="+key, "DREAMCORE_PREVIEW_DOMAIN=off"), dreamcore.CodeInvalid},
		"no account": {func() config.Config {
			cfg := routerConfig(t, cell, "DREAMCORE_KUBERNETES_API=https://127.0.0.1:1", "DREAMCORE_KUBERNETES_ACCOUNT=/nonexistent")
			cfg.Cells = ""
			return cfg
		}(), dreamcore.CodeSetup},
		"no source": {func() config.Config { cfg := routerConfig(t, cell); cfg.Cells = ""; return cfg }(), dreamcore.CodeInvalid},
	} {
		r, err := StartRouter(t.Context(), tt.cfg, routerOptions())
		if err == nil {
			err = errors.Join(errors.New("it started"), r.Close())
		}
		if dreamcore.CodeOf(err) != tt.code || dreamcore.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, dreamcore.HintOf(err))
		}
	}
}

func TestARouterTakesOnlySocketsOfItsAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	cfg := routerConfig(t, "cell-0 127.0.0.1:1")
	cfg.Listen = "127.0.0.1:1"
	if _, err := StartRouter(context.Background(), cfg, routerOptions(socket)); dreamcore.ReasonOf(err) != ReasonInherited {
		t.Errorf("%v", err)
	}
}
