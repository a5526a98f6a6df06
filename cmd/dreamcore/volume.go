package main

import (
	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func newVolumeCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "volume", Short: "Create and list volumes, copy files in and out",
		Args: usageArgs(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newVolumeCreateCmd(a), newVolumeListCmd(a), newVolumeLsCmd(a), newVolumeGetCmd(a), newVolumePutCmd(a), newVolumeRmCmd(a))
	return c
}

func newVolumeCreateCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "create NAME", Short: "Create a volume", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.open()
			if err != nil {
				return err
			}
			defer s.Close()
			created, err := s.Volumes.Create(args[0])
			if err != nil {
				return err
			}
			if a.io.JSON {
				return a.io.WriteJSON(map[string]any{"name": args[0], "created": created})
			}
			if created {
				a.io.Stdout().Success("volume " + args[0] + " created")
			} else {
				a.io.Stdout().Info("volume " + args[0] + " exists")
			}
			return nil
		},
	}
}

func newVolumeListCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List volumes", Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			s, err := a.open()
			if err != nil {
				return err
			}
			defer s.Close()
			infos, err := s.Volumes.List()
			if err != nil {
				return err
			}
			type row struct {
				Name string `json:"name"`
				Path string `json:"path"`
			}
			rows, table := []row{}, term.Table{Columns: []term.Column{{Title: "NAME"}, {Title: "PATH"}}}
			for _, i := range infos {
				rows = append(rows, row{i.Name, i.Path})
				table.Rows = append(table.Rows, term.Row(i.Name, i.Path))
			}
			if a.io.JSON {
				return a.io.WriteJSON(map[string]any{"volumes": rows})
			}
			if len(rows) == 0 {
				a.io.Stdout().Info("There are no volumes yet")
				a.io.Stdout().Hint("run: dreamcore setup")
				return nil
			}
			a.io.Stdout().Table(table)
			return nil
		},
	}
}
