package main

import (
	"cmp"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// endpointOptions select the service that a client command talks to.
type endpointOptions struct {
	address    string
	secretFile string
}

func (o *endpointOptions) add(c *cobra.Command) {
	c.Flags().StringVar(&o.address, "endpoint", "", "address of a service, in any form (MODAL_ENDPOINT)")
	c.Flags().StringVar(&o.secretFile, "secret-file", "", "file with the internal secret (MODAL_INTERNAL_SECRET; default: the secret of this machine)")
}

// endpoint returns the address of the service, or "" for this machine.
func (o endpointOptions) endpoint(a *app) string {
	return cmp.Or(o.address, a.env.Endpoint)
}

// shown returns the address for reports, without a password that it may contain.
// It returns "" if the address is invalid.
func (o endpointOptions) shown(a *app) string {
	ep, err := client.ParseEndpoint(o.endpoint(a))
	if err != nil {
		return ""
	}
	return ep.String()
}

// client returns a client of the service. The caller must close it.
func (o endpointOptions) client(a *app, timeout time.Duration) (*client.Client, error) {
	ep, err := client.ParseEndpoint(o.endpoint(a))
	if err != nil {
		return nil, err
	}
	value, err := o.secret(a)
	if err != nil {
		return nil, err
	}
	a.redactor.Add(value)
	return client.New(client.Options{Endpoint: ep, Secret: value, Timeout: timeout, UserAgent: "dreamcore/" + version})
}

// maxSecretBytes bounds the size of a secret from a file.
const maxSecretBytes = 64 << 10

// secret returns the internal secret from the file, the environment or this
// machine, in this order.
func (o endpointOptions) secret(a *app) (string, error) {
	if o.secretFile != "" {
		raw, err := os.ReadFile(o.secretFile)
		if err != nil {
			return "", &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Message: "the secret file cannot be read", Err: err,
				Hint: "name a readable file with --secret-file FILE",
			}
		}
		value := strings.TrimSpace(string(raw))
		if value == "" || len(value) > maxSecretBytes {
			return "", &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Message: "the secret file contains no secret",
				Hint: "write it with: dreamcore secret show " + secret.InternalSecret + " > FILE",
			}
		}
		return value, nil
	}
	if a.env.InternalSecret != "" {
		return a.env.InternalSecret, nil
	}
	store, err := a.secrets(false)
	if err == nil {
		var values []string
		if values, err = store.InternalValues(); err == nil {
			return values[0], nil
		}
	}
	return "", &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "there is no internal secret to send", Err: err,
		Hint: "set MODAL_INTERNAL_SECRET, or name a file with --secret-file FILE",
	}
}
