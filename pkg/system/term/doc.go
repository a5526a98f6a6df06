// Package term is how an operator sees dreamcore: status lines, progress,
// tables, prompts, errors and JSON, in one restrained style.
//
// An IO stands for the three standard streams. Main makes it with System,
// tests with Buffers. Each output stream gives a Printer; a Printer styles
// only what goes to a terminal, and without colour when NO_COLOR is set or
// TERM is "dumb". In a pipe everything is plain text, one line a time.
//
// Every string that a Printer takes is cleaned first (see Clean), so text from
// a sandbox, a server or a model cannot steer the terminal. The one exception
// is Println, which prints what Style and the layout functions returned.
//
// Errors of writing human text are dropped: there is nobody left to tell.
// WriteJSON and WriteLine, which programs read, return theirs.
package term
