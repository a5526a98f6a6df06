// Package replay is a scripted model: an HTTP handler that speaks the Messages
// API as far as the agent's CLI uses it, and answers from a script instead of
// thinking. Tests use it, and so does a first run without a model key, which
// plays the embedded demo.
//
// A script is JSON, decoded strictly:
//
//	{"conversations": [
//	  [ {"text": "…", "thinking": "…", "delay_ms": 0,
//	     "tools": [{"name": "Write", "input": {"file_path": "{{cwd}}/a.js", "content": "…"}}],
//	     "fail": {"status": 429, "headers": {"retry-after": "1"}, "times": 1}},
//	    …turns ],
//	  …conversations ],
//	 "prompts": {"detect_intent": [
//	  {"contains": ["undo"], "text": "restore"}, {"text": "edit"} ]}}
//
// The model keeps no talk in memory. The conversation is chosen by the number
// of human messages in the request, the turn by the number of assistant
// messages after the last of them, so that retries and resumed sessions just
// work; the last conversation answers all later prompts. In the strings of a
// tool's input {{cwd}} stands for the working directory that the request
// names. See [Fail] for the ways in which a turn can go wrong.
package replay
