package main

import (
	"cmp"
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// endpointOptions select the service that a client command talks to.
type endpointOptions struct {
	address    string
	secretFile string
}

func (o *endpointOptions) add(c *cobra.Command) {
	c.Flags().StringVar(&o.address, "endpoint", "", "address of a service, in any form (MODAL_ENDPOINT)")
	o.addSecret(c)
}

func (o *endpointOptions) addSecret(c *cobra.Command) {
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
	value, err := o.secret(a)
	if err != nil {
		return nil, err
	}
	a.redactor.Add(value)
	return client.New(o.endpoint(a), client.Options{Secret: value, Timeout: timeout, UserAgent: "dreamcore/" + version})
}

// withClient calls do with a client of the service that has the usual time limits.
func (o endpointOptions) withClient(a *app, do func(c *client.Client) error) error {
	c, err := o.client(a, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// owner returns the user who has a project, of the service or of this machine.
func (o endpointOptions) owner(a *app) func(context.Context, dreamcore.ProjectID) (dreamcore.UserID, error) {
	if o.endpoint(a) == "" {
		return a.projectOwner
	}
	return func(ctx context.Context, project dreamcore.ProjectID) (user dreamcore.UserID, err error) {
		err = o.withClient(a, func(c *client.Client) error {
			user, err = c.ProjectOwner(ctx, project)
			return err
		})
		return user, err
	}
}

// secret returns the internal secret from the file, the environment or this
// machine, in this order.
func (o endpointOptions) secret(a *app) (string, error) {
	if o.secretFile != "" {
		return client.ReadSecret(o.secretFile)
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
