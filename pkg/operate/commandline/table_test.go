package commandline

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const text = `== app
Do things
state: apart

$ app pets list      see them

= Animals

== app pets
Keep pets

== app pets list
List {what}
alias: ls
state: looks volumes

Lists {what}.

They are sorted.

$ app pets list
$ app pets ls

=

== app feed NAME [FOOD]
Feed a pet
state: writes

$ app feed Tom
`

func TestCommandsAreMadeOfTheTable(t *testing.T) {
	table := Parse(text, strings.NewReplacer("{what}", "cats"))
	ran := []string{}
	run := func(_ context.Context, args []string) error { ran = append(ran, args...); return nil }
	root := table.New("app", run)
	list := table.New("app pets list", run)
	root.AddGroup(table.Groups()...)
	root.AddCommand(table.Group("app pets", list), table.New("app feed", run))
	if list.Short != "List {what}" || list.Long != "Lists cats.\n\nThey are sorted." || list.Example != "  app pets list\n  app pets ls" || !list.HasAlias("ls") {
		t.Errorf("%q, %q, %q", list.Short, list.Long, list.Example)
	}
	if want := (Use{Looks, []string{"volumes"}}); !reflect.DeepEqual(UseOf(list), want) || !reflect.DeepEqual(UseOf(list.Parent()), want) {
		t.Errorf("%v, %v", UseOf(list), UseOf(list.Parent()))
	}
	if id := list.Parent().GroupID; id != "Animals" || list.GroupID != "" {
		t.Errorf("group %q", id)
	}
	root.SetArgs([]string{"feed", "Tom", "fish"})
	if err := root.Execute(); err != nil || !slices.Equal(ran, []string{"Tom", "fish"}) {
		t.Errorf("%q, %v", ran, err)
	}
}

func TestTheUsageLineSaysHowManyArgumentsThereAre(t *testing.T) {
	for use, want := range map[string]string{ // for 0 to 4 arguments
		"list":                              "+----",
		"show NAME":                         "-+---",
		"show NAME [KEY]":                   "-++--",
		"list [VOLUME [PATH]]":              "+++--",
		"import DIR|FILE.tar[.gz|.zst]":     "-+---",
		"stop NAME ...":                     "-++++",
		"show [SETTING ...]":                "+++++",
		"create NAME KEY=value [KEY=v ...]": "--+++",
		"run NAME [FIELD=VALUE…]":           "-++++",
		"exec NAME -- PROGRAM [ARG ...]":    "--+++",
	} {
		table := Parse("== app "+use+"\nDo it\nstate: apart\n", strings.NewReplacer())
		c := table.New("app "+strings.Fields(use)[0], nil)
		got := ""
		for n := range 5 {
			got += map[bool]string{true: "+", false: "-"}[c.Args(c, make([]string, n)) == nil]
		}
		if got != want {
			t.Errorf("%s: %s, want %s", use, got, want)
		}
	}
}

func TestAnUnknownLineOfTheTablePanics(t *testing.T) {
	for _, text := range []string{"== app\nDo it\nstat: reads\n", "== app\nDo it\nstate: sees\n"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is accepted", text)
				}
			}()
			UseOf(Parse(text, strings.NewReplacer()).New("app", nil))
		}()
	}
}
