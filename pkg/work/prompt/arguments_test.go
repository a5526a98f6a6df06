package prompt

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestArgumentsBecomeTheBodyOfARequest(t *testing.T) {
	e := &Endpoint{Name: "x", Fields: []Field{{Name: "text", Type: TypeString}, {Name: "raw", Type: TypeBool}, {Name: "any", Type: TypeAny}}}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, `{}`},
		{[]string{"text=a=b", "raw=true", "any=1", "user_id=u"}, `{"any":"1","raw":true,"text":"a=b","user_id":"u"}`},
		{[]string{"text"}, ""},
		{[]string{"other=1"}, ""},
		{[]string{"raw=yes"}, ""},
	} {
		got, err := e.Body(tt.args)
		if string(got) != tt.want || (err != nil) != (tt.want == "") || err != nil && (dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "") {
			t.Errorf("%q: %s, %v", tt.args, got, err)
		}
	}
}
