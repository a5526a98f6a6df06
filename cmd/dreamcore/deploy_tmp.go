package main

import "github.com/spf13/cobra"

func newDeployCmd(a *app) *cobra.Command { return &cobra.Command{Use: "deploy", Hidden: true} }
