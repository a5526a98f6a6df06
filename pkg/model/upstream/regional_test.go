package upstream

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

// The clouds charge more for models bound to a region.
func TestRegionalEndpoints(t *testing.T) {
	for model, want := range map[string]bool{
		"global.anthropic.claude-sonnet-4-5-20250929-v1:0": false,
		"us.anthropic.claude-sonnet-4-5-20250929-v1:0":     true,
		"anthropic.claude-haiku-4-5-20251001-v1:0":         true,
		"arn:aws:bedrock:us-east-1:1:inference-profile/x":  true,
	} {
		if got := (&bedrockDialect{}).Regional(gateway.Call{Model: model}); got != want {
			t.Errorf("Bedrock, %s: %v", model, got)
		}
	}
	for region, want := range map[string]bool{"global": false, "us": true, "europe-west1": true} {
		if got := (&vertexDialect{entry: Entry{Region: region}}).Regional(gateway.Call{}); got != want {
			t.Errorf("Vertex, %s: %v", region, got)
		}
	}
}
