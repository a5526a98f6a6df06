package dreamcore

import "encoding/json"

// JobState is the state of a job, as GET /jobs/{id} reports it.
type JobState string

// States of a job. The last three are final.
const (
	JobQueued    JobState = "queued"
	JobRunning   JobState = "running"
	JobSucceeded JobState = "succeeded"
	JobFailed    JobState = "failed"
	JobCancelled JobState = "cancelled"
)

// EndState returns the state of a job whose last event is e. ok is false if e
// is not a terminal event.
func EndState(e Event) (state JobState, ok bool) {
	switch EventType(e) {
	case "done":
		return JobSucceeded, true
	case "error":
		var failure struct {
			Code FailureCode `json:"code"`
		}
		if json.Unmarshal(e, &failure) == nil && failure.Code == FailCLITerminated {
			return JobCancelled, true
		}
		return JobFailed, true
	}
	return "", false
}

// ParseJobID is ParseUserID for the id of a job.
func ParseJobID(s string) (string, error) { return parseID("job id", s) }
