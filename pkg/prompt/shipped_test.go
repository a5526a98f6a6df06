package prompt

import "testing"

func TestTheShippedEndpointsParse(t *testing.T) {
	if n := len(Shipped()); n != 8 {
		t.Errorf("%d endpoints are embedded, want the 8 of the contract", n)
	}
}
