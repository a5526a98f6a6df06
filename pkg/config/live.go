package config

import (
	"reflect"
	"slices"
)

// live are the settings that a running service can take up. Everything else is
// bound to what is open.
var live = []string{
	"memory_mib", "cpus", "processes",
	"max_sandboxes", "sandbox_idle", "sandbox_max_age", "spare_sandboxes", "min_free_mib",
	"sandbox_env", "tools", "model", "max_turns", "timeout", "output_lines",
	"max_generations", "max_waiting", "max_waiting_per_user", "on_disconnect", "disconnect_grace", "journal_days",
	"jobs_mib", "history_mib", "history_user_mib",
	"upstream", "upstreams", "model_script",
	"budget_job_usd", "budget_job_tokens", "budget_user_day_usd", "budget_user_day_tokens",
	"budget_user_month_usd", "budget_user_month_tokens", "budget_day_usd", "budget_month_usd",
	"user_requests", "prices", "prompt_models",
	"commit_message",
}

// TakeUp returns c with those settings of next that a running service can take
// up.
func (c Config) TakeUp(next Config) Config {
	to, from := reflect.ValueOf(&c).Elem(), reflect.ValueOf(next)
	for i := range to.NumField() {
		if slices.Contains(live, to.Type().Field(i).Tag.Get(tag)) {
			to.Field(i).Set(from.Field(i))
		}
	}
	return c
}

// NeedRestart names the settings in which next differs from c and that a
// running service cannot take up, in the order of the fields.
func (c Config) NeedRestart(next Config) []string {
	var names []string
	a, b := reflect.ValueOf(c), reflect.ValueOf(next)
	for i := range a.NumField() {
		name := a.Type().Field(i).Tag.Get(tag)
		if !slices.Contains(live, name) && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}
