package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxPage bounds a page of records, in bytes.
const maxPage = 16 << 20

// Jobs returns a page of the records that f selects, the newest first. The fields
// of a record come from clients and from the agent: print them through pkg/term.
func (c *Client) Jobs(ctx context.Context, f dreamcore.JobFilter) (page dreamcore.JobPage, err error) {
	err = c.record(ctx, c.get(NameJobs, jobQuery(f), "application/json"), &page)
	return page, err
}

// Job returns the record of a job. CodeNotFound: there is no such job, or with
// ReasonExpired, no longer.
func (c *Client) Job(ctx context.Context, job string) (dreamcore.Job, error) {
	return c.jobRecord(ctx, job, func(id string) call { return c.get("jobs/"+id, nil, "application/json") })
}

// CancelJob cancels a job and returns its record. It does not wait for the end of
// the job, which may have ended already. The errors are those of Job.
func (c *Client) CancelJob(ctx context.Context, job string) (dreamcore.Job, error) {
	return c.jobRecord(ctx, job, func(id string) call { return c.post("jobs/"+id+"/cancel", emptyBody) })
}

func (c *Client) jobRecord(ctx context.Context, job string, request func(id string) call) (j dreamcore.Job, err error) {
	id, err := dreamcore.ParseJobID(job)
	if err != nil {
		return j, err
	}
	r := request(id)
	if err = c.record(ctx, r, &j); err == nil && j.ID != id {
		err = c.malformed(r.name, "it is about another job")
	}
	return j, err
}

// JobLink returns an address at which a browser can follow the events of a job
// without the secret, and the time at which it expires. If lifetime is 0, the server
// chooses it; fractions of a second are dropped.
func (c *Client) JobLink(ctx context.Context, job string, lifetime time.Duration) (address string, expires time.Time, err error) {
	id, err := dreamcore.ParseJobID(job)
	if err != nil {
		return "", expires, err
	}
	body, err := json.Marshal(struct {
		Seconds int64 `json:"expires_in,omitempty"`
	}{int64(lifetime / time.Second)})
	if err != nil {
		return "", expires, err
	}
	name := "jobs/" + id + "/link"
	a, err := c.object(ctx, c.post(name, body))
	if err != nil {
		return "", expires, err
	}
	r := &reader{a: a}
	address = r.text("url")
	r.decode("expires", &expires, "time")
	return address, expires, c.finish(name, r)
}

// record decodes an answer that is a record, or a page of them.
func (c *Client) record(ctx context.Context, r call, to any) error {
	r.limit = maxPage
	body, err := c.ok(ctx, r)
	if err != nil {
		return err
	}
	if _, err := c.parse(r.name, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, to); err != nil {
		return c.malformed(r.name, fmt.Sprintf("not a record: %s", c.text(err.Error())))
	}
	return nil
}

func jobQuery(f dreamcore.JobFilter) url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("user_id", string(f.User))
	set("project_id", string(f.Project))
	set("state", string(f.State))
	set("cursor", f.Cursor)
	if !f.Since.IsZero() {
		q.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		q.Set("until", f.Until.UTC().Format(time.RFC3339Nano))
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(min(f.Limit, dreamcore.MaxPage)))
	}
	return q
}
