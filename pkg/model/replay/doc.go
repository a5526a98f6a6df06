// Package replay is a scripted model: an HTTP handler that implements the part of
// the Messages API that the agent's CLI uses, and answers from a script. Tests use
// it, and so does a first run without a model key, which plays the embedded demo.
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
// The model does not store conversations. The number of human messages in the
// request selects the conversation, the number of assistant messages after the
// last of them selects the turn, so retries and resumed sessions work; the last
// conversation answers all later prompts. In the strings of a tool's input,
// {{cwd}} is replaced by the working directory that the request names. See [Fail]
// for the ways in which a turn can fail.
package replay
