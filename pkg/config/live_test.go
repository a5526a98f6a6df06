package config

import (
	"reflect"
	"slices"
	"testing"
)

// TestEverySettingIsLiveOrNeedsRestart changes each setting alone.
func TestEverySettingIsLiveOrNeedsRestart(t *testing.T) {
	var old Config
	fields := reflect.TypeFor[Config]()
	for i := range fields.NumField() {
		name := fields.Field(i).Tag.Get(tag)
		var next Config
		f := reflect.ValueOf(&next).Elem().Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString("new")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Float64:
			f.SetFloat(1)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]string{"A": "b"}).Convert(f.Type()))
		default:
			f.SetInt(1)
		}
		taken := reflect.DeepEqual(old.TakeUp(next), next)
		named := slices.Equal(old.NeedRestart(next), []string{name})
		if taken == named || taken != LookupSetting(name).Live {
			t.Errorf("%s: taken up %t, needs restart: %q", name, taken, old.NeedRestart(next))
		}
	}
	if got := old.NeedRestart(old); got != nil {
		t.Errorf("nothing has changed, and %q need a restart", got)
	}
}
