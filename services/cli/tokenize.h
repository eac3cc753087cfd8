// `chord tokenize`: text to ids, for parity checks.
#pragma once

namespace chord::cli {

// chord tokenize --model DIR [--special]. argv[0] is the command's own name ("tokenize").
// Reads one JSON string a line from standard input, writes one JSON array of ids a line to standard
// output in the same order, whole answers before it waits for more input. DIR needs tokenizer.json
// only. Lone surrogate escapes count as U+FFFD. Returns the exit code: 0; 1 when the tokenizer
// cannot be loaded, a line is no JSON string (its number goes to standard error, answers of earlier
// lines are written) or writing fails; 2 for wrong usage.
int RunTokenize(int argc, char** argv);

}  // namespace chord::cli
