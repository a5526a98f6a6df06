package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestAnAliasOfAPromptModelCanBeChangedAlone(t *testing.T) {
	usual := promptModels()
	for source, load := range map[string]func() (Config, error){
		"file": func() (Config, error) { return load(t, "prompt_models: {haiku: small-1, extra: m}", nil, nil) },
		"environment": func() (Config, error) {
			return load(t, "", []string{"DREAMCORE_PROMPT_MODELS=haiku=small-1, extra=m"}, nil)
		},
	} {
		c, err := load()
		if err != nil {
			t.Fatal(source, err)
		}
		want := map[string]string{"haiku": "small-1", "extra": "m", "sonnet": usual["sonnet"].(string)}
		if !reflect.DeepEqual(c.PromptModels, want) {
			t.Errorf("from the %s: %v, want %v", source, c.PromptModels, want)
		}
	}
}

func TestPromptModelsWithFaultsAreRefused(t *testing.T) {
	for file, want := range map[string]string{
		"prompt_models: haiku":         "KEY=VALUE",
		"prompt_models: [a]":           "not a mapping",
		"prompt_models: {haiku: 5}":    "haiku: 5 is not text",
		"prompt_models: {a.b: c}":      `"a.b" is not an alias`,
		"prompt_models: {Haiku: c}":    `"Haiku" is not an alias`,
		`prompt_models: {haiku: ""}`:   "prompt_models.haiku",
		`prompt_models: {haiku: "-x"}`: "prompt_models.haiku",
	} {
		if _, err := load(t, file, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", file, err, want)
		}
	}
}
