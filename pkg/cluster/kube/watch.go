package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func joinPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// Pauses before a watch is tried again.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
)

// watchLimit is how long the API server keeps one watch open.
const watchLimit = 5 * time.Minute

// Observer is told what happens to a watch; its functions may be nil.
type Observer struct {
	Failed func(error) // the watch has ended with an error and will be tried again
}

// FollowConfigMap calls see with an object now and after each change, until ctx ends.
// ok is false while the object does not exist. While the API server is away, nothing
// is called: the last state that was seen stays in force.
func (c *Client) FollowConfigMap(ctx context.Context, name string, o Observer, see func(m ConfigMap, ok bool)) {
	f := follower{
		client: c, path: c.path(configMaps, ""), query: url.Values{"fieldSelector": {"metadata.name=" + name}}, observer: o,
		changed: func(objects map[string]json.RawMessage) {
			var m configMap
			raw, ok := objects[name]
			if ok {
				if err := json.Unmarshal(raw, &m); err != nil {
					c.log.Error("an object of Kubernetes cannot be decoded", "object", name, "error", err)
					return
				}
			}
			see(m.ConfigMap(), ok)
		},
	}
	f.run(ctx)
}

// FollowEndpoints calls see with all named pods of a service now and after each
// change, sorted by name, until ctx ends.
func (c *Client) FollowEndpoints(ctx context.Context, service string, o Observer, see func([]Endpoint)) {
	c.endpoints(service, o, see).run(ctx)
}

// Endpoints returns all named pods of a service, sorted by name.
func (c *Client) Endpoints(ctx context.Context, service string) (all []Endpoint, err error) {
	err = c.endpoints(service, Observer{}, func(e []Endpoint) { all = e }).list(ctx)
	return all, err
}

func (c *Client) endpoints(service string, o Observer, see func([]Endpoint)) *follower {
	return &follower{
		client: c, path: c.path(endpointSlices, ""), query: url.Values{"labelSelector": {"kubernetes.io/service-name=" + service}}, observer: o,
		changed: func(objects map[string]json.RawMessage) {
			var all []Endpoint
			for name, raw := range objects {
				var s endpointSlice
				if err := json.Unmarshal(raw, &s); err != nil {
					c.log.Error("an object of Kubernetes cannot be decoded", "object", name, "error", err)
					return
				}
				all = append(all, s.endpoints()...)
			}
			slices.SortFunc(all, func(a, b Endpoint) int {
				return strings.Compare(a.Name+"\x00"+a.Address, b.Name+"\x00"+b.Address)
			})
			see(all)
		},
	}
}

// shortWatch is the length of a watch without an event below which its end is a fault:
// an API server that ends each one at once would be asked for ever without a pause.
const shortWatch = time.Second

var errShort = errors.New("the API server ends watches at once")

// follower keeps a copy of a collection. It lists once, and then watches from the
// version of the last change on, over every loss of the connection.
type follower struct {
	client   *Client
	path     string
	query    url.Values
	observer Observer
	changed  func(map[string]json.RawMessage)

	objects map[string]json.RawMessage // by name
	version string                     // of the last change; "" before the first list
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		began, answered := time.Now(), false
		err := f.once(ctx, func() { pause, answered = firstPause, true })
		if err == nil && !answered && time.Since(began) < shortWatch {
			err = errShort
		}
		if err == nil || ctx.Err() != nil {
			continue // the API server has ended the watch after its time
		}
		if errors.Is(err, errGone) {
			f.version = "" // list again
		}
		if f.observer.Failed != nil {
			f.observer.Failed(err)
		}
		f.client.log.Warn("cannot follow Kubernetes; the last state stays in force", "path", f.path, "error", err, "again", pause)
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, maxPause)
	}
}

// once lists if needed and watches to the end of one connection. It calls good when
// the API server has answered.
func (f *follower) once(ctx context.Context, good func()) error {
	if f.version == "" {
		if err := f.list(ctx); err != nil {
			return err
		}
		good()
	}
	query := f.with("watch", "1", "resourceVersion", f.version, "allowWatchBookmarks", "true", "timeoutSeconds", strconv.Itoa(int(watchLimit.Seconds())))
	// A watch outlives its own end by little, or else its connection is dead.
	ctx, cancel := context.WithTimeout(ctx, watchLimit+requestLimit)
	defer cancel()
	resp, err := f.client.send(ctx, http.MethodGet, f.path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxObject)
	for lines.Scan() {
		if err := f.event(lines.Bytes()); err != nil {
			return err
		}
		good()
	}
	if err := lines.Err(); err != nil {
		return unreachable(err)
	}
	return nil
}

func (f *follower) with(pairs ...string) url.Values {
	q := url.Values{}
	for name, values := range f.query {
		q[name] = values
	}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return q
}

// list replaces the copy.
func (f *follower) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	resp, err := f.client.send(ctx, http.MethodGet, f.path, f.query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := readBounded(resp.Body, maxList)
	if err != nil {
		return unreachable(err)
	}
	var list struct {
		Metadata metadata          `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("decode a list: %w", err)
	}
	objects := map[string]json.RawMessage{}
	for _, item := range list.Items {
		m, err := metadataOf(item)
		if err != nil {
			return err
		}
		objects[m.Name] = item
	}
	if list.Metadata.ResourceVersion == "" {
		return errors.New("a list of Kubernetes has no version")
	}
	f.objects, f.version = objects, list.Metadata.ResourceVersion
	f.changed(f.objects)
	return nil
}

// event applies one event of a watch.
func (f *follower) event(line []byte) error {
	var e struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("decode an event: %w", err)
	}
	if e.Type == "ERROR" {
		var s status
		if err := json.Unmarshal(e.Object, &s); err != nil {
			return fmt.Errorf("decode an event: %w", err)
		}
		return statusError(s.Code, s.Message)
	}
	m, err := metadataOf(e.Object)
	if err != nil {
		return err
	}
	switch e.Type {
	case "ADDED", "MODIFIED":
		f.objects[m.Name] = bytes.Clone(e.Object)
	case "DELETED":
		delete(f.objects, m.Name)
	case "BOOKMARK":
		f.version = m.ResourceVersion
		return nil
	default:
		return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: fmt.Sprintf("unknown event of Kubernetes: %.40q", e.Type)}
	}
	f.version = m.ResourceVersion
	f.changed(f.objects)
	return nil
}

func metadataOf(object json.RawMessage) (metadata, error) {
	var o struct {
		Metadata metadata `json:"metadata"`
	}
	err := json.Unmarshal(object, &o)
	if err == nil && o.Metadata.ResourceVersion == "" {
		err = errors.New("it has no version")
	}
	if err != nil {
		return metadata{}, fmt.Errorf("decode an object: %w", err)
	}
	return o.Metadata, nil
}
