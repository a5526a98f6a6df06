// Package term renders dreamcore's output for an operator: status lines,
// progress, tables, prompts, errors and JSON, in one restrained style.
//
// An IO holds the three standard streams. Main creates it with System, tests
// with Buffers. Each output stream has a Printer, which styles text only on a
// terminal, and uses no colour if NO_COLOR is set or TERM is "dumb". In a pipe
// all output is plain text, one line at a time.
//
// Printers clean every string first (see Clean), so text from a sandbox, a
// server or a model cannot control the terminal. The one exception is Println,
// which prints the results of Style and the layout functions.
//
// Errors of writing text for people are ignored, because they cannot be
// reported anywhere. WriteJSON and WriteLine, whose output programs read, return
// them.
package term
