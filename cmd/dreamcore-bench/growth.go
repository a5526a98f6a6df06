package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/google/uuid"
)

// samples is how often each answer is measured at each step.
const samples = 10

// growths measures answers while a user's projects grow in number, ten times at
// each step.
func (b *bench) growths(ctx context.Context) (err error) {
	s, err := b.serve(ctx, "growth", "model_script: demo\ndisk_mib: 0\nmin_free_disk_mib: 0\n")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	user, project := uuid.NewString(), uuid.NewString()
	apply := func(project string) error {
		_, err := s.read(ctx, http.MethodPost, "/apply_files", map[string]any{
			"user_id": user, "project_id": project, "commit_message": "bench",
			"files": []map[string]string{{"path": "index.html", "content": uuid.NewString(), "action": "create"}},
		})
		return err
	}
	if err := apply(project); err != nil {
		return err
	}
	ask := func(path string) func() error {
		return func() error { _, err := s.read(ctx, http.MethodGet, path, nil); return err }
	}
	asked := []struct {
		name string
		run  func() error
	}{
		{"POST /apply_files of a new project", func() error { return apply(uuid.NewString()) }},
		{"GET /projects, one page", ask("/projects?user_id=" + user)},
		{"GET /get_file", ask("/get_file?user_id=" + user + "&project_id=" + project + "&path=index.html")},
		{"GET /users/{user_id}", ask("/users/" + user)},
	}
	curves := make([]curve, len(asked))
	for have, n := 1, 10; n <= b.growth; n *= 10 {
		if err := each(max(n-have, 0), 2, func(int) error { return apply(uuid.NewString()) }); err != nil {
			return err
		}
		have = n + samples // of new projects
		for i, a := range asked {
			var took []float64
			for range samples {
				ms, err := peer{name: a.name, once: func(context.Context, string) error { return a.run() }}.timed(ctx, "")
				if err != nil {
					return err
				}
				took = append(took, ms)
			}
			curves[i].Name = a.name + ", by projects of the user"
			curves[i].Of = append(curves[i].Of, n)
			curves[i].Millis = append(curves[i].Millis, median(took))
		}
	}
	b.report.Curves = append(b.report.Curves, curves...)
	return nil
}
