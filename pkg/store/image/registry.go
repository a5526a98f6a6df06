package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	attempts = 3 // of each request
	parallel = 3 // concurrent downloads of layers
)

// registry is an image in a registry. Its layers are downloaded into files, a few
// at a time, while lower layers are unpacked: a broken connection costs only the
// download of one layer.
type registry struct {
	ref    name.Reference
	puller *remote.Puller
	client *client
	opts   Options
	pause  time.Duration

	dir       *os.Root     // of the files
	downloads []chan error // of the layers; each receives the result
}

// errClosing ends downloads when the pull has ended.
var errClosing = errors.New("the pull has ended")

func (s *Store) openRegistry(r reference) (source, error) {
	c := newClient(s.opts.Proxy, s.stall)
	p, err := remote.NewPuller(
		remote.WithTransport(c),
		remote.WithAuthFromKeychain(keychain{s.opts.Credentials}),
		remote.WithUserAgent("dreamcore"),
		remote.WithJobs(parallel),
		// Requests are repeated by retry: the pauses of the library do not end with
		// the context.
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		remote.WithRetryStatusCodes(),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare the registry's client: %w", err)
	}
	return &registry{ref: r.name, puller: p, client: c, opts: s.opts, pause: s.pause}, nil
}

// keychain adds a hint if the operator's credentials cannot be read.
type keychain struct{ authn.Keychain }

// Resolve implements authn.Keychain.
func (k keychain) Resolve(of authn.Resource) (authn.Authenticator, error) {
	a, err := k.Keychain.Resolve(of)
	if err != nil {
		err = &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the credentials for " + of.RegistryStr() + " cannot be read", Err: err,
			Hint: "repair the docker configuration, config.json in ~/.docker or $DOCKER_CONFIG, or the credential helper in it",
		}
	}
	return a, err
}

func (r *registry) resolve(ctx context.Context) (manifest, error) {
	doc, err := r.fetch(ctx, r.ref)
	if err != nil {
		return manifest{}, err
	}
	return follow(ctx, doc, r.opts, func(ctx context.Context, d v1.Descriptor) ([]byte, error) {
		if err := asManifest(d); err != nil {
			return nil, err
		}
		return r.fetch(ctx, r.ref.Context().Digest(d.Digest.String()))
	})
}

// fetch returns a document. The library checks it against a digest in ref.
func (r *registry) fetch(ctx context.Context, ref name.Reference) (doc []byte, err error) {
	err = r.retry(ctx, func() error {
		d, err := r.puller.Get(ctx, ref)
		if err != nil {
			return err
		}
		if err := asManifest(d.Descriptor); err != nil {
			return err
		}
		doc = d.Manifest
		return nil
	})
	if err != nil && strings.Contains(err.Error(), "does not match requested digest") {
		err = flaw(err.Error()) // the error has no type of its own
	}
	if err != nil {
		return nil, fmt.Errorf("get the manifest: %w", err)
	}
	return doc, nil
}

func (r *registry) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	l, err := r.puller.Layer(ctx, r.ref.Context().Digest(d.Digest.String()))
	if err != nil {
		return nil, err
	}
	rc, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	return blobReader{rc}, nil
}

// blobReader turns the library's own errors about a layer, which have no type, into
// flaws; errors of the connection are wireErrors.
type blobReader struct{ io.ReadCloser }

func (b blobReader) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if _, ok := errors.AsType[wireError](err); err != nil && err != io.EOF && !ok {
		err = flaw(err.Error())
	}
	return n, err
}

func (r *registry) open(ctx context.Context, m manifest, layer int) (io.ReadCloser, error) {
	if layer == configLayer {
		return r.config(ctx, m)
	}
	select {
	case err := <-r.downloads[layer]:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	f, err := r.dir.Open(strconv.Itoa(layer))
	if err != nil {
		return nil, fmt.Errorf("open the downloaded layer: %w", err)
	}
	// Its space is freed when it is closed.
	if err := r.dir.Remove(strconv.Itoa(layer)); err != nil {
		return nil, errors.Join(fmt.Errorf("remove the downloaded layer: %w", err), f.Close())
	}
	return f, nil
}

func (r *registry) config(ctx context.Context, m manifest) (io.ReadCloser, error) {
	var raw []byte
	err := r.retry(ctx, func() error {
		rc, err := r.blob(ctx, m.config)
		if err != nil {
			return err
		}
		defer rc.Close()
		raw, err = readDocument(rc, "the configuration")
		return err
	})
	return io.NopCloser(bytes.NewReader(raw)), err
}

func (r *registry) prefetch(ctx context.Context, m manifest, dir *os.Root, report *reporter) (stop func()) {
	ctx, cancel := context.WithCancelCause(withBlobs(ctx))
	r.dir = dir
	r.downloads = make([]chan error, len(m.layers))
	next := make(chan int, len(m.layers))
	for i := range m.layers {
		r.downloads[i] = make(chan error, 1)
		next <- i
	}
	close(next)
	var running sync.WaitGroup
	for range parallel {
		running.Go(func() {
			for i := range next {
				r.downloads[i] <- r.download(ctx, m, i, report)
			}
		})
	}
	return func() {
		cancel(errClosing)
		running.Wait()
	}
}

// download downloads one layer into its file and checks it.
func (r *registry) download(ctx context.Context, m manifest, layer int, report *reporter) error {
	err := r.retry(ctx, func() error {
		rc, err := r.blob(ctx, m.layers[layer])
		if err != nil {
			return err
		}
		defer rc.Close()
		f, err := r.dir.OpenFile(strconv.Itoa(layer), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fileMode)
		if err != nil {
			return fmt.Errorf("create a file for the download: %w", err)
		}
		_, err = io.Copy(f, report.reader(verify(rc, m.layers[layer]), Downloading, layer, m.layers[layer]))
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	return nil
}

// retry repeats a request after errors that may be temporary.
func (r *registry) retry(ctx context.Context, do func() error) error {
	pause := r.pause
	for try := 1; ; try++ {
		err := do()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil || try == attempts || !isTemporary(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause *= 3
	}
}

// isTemporary reports whether another attempt within seconds may succeed. Silence
// is not temporary: its limit is long already.
func isTemporary(err error) bool {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return answer.StatusCode >= http.StatusInternalServerError ||
			answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (r *registry) Close() error {
	r.client.close()
	return nil
}
