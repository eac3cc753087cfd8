// `chord tokenize`: text to token ids, for parity checks.
#pragma once

#include <string>
#include <vector>

namespace chord::cli {

// chord tokenize --model DIR [--special]. Reads one JSON string a line from standard input and
// writes one JSON array of ids a line to standard output in the same order; answers are complete
// before it waits for more input. DIR needs tokenizer.json only. Lone surrogate escapes count as
// U+FFFD. Returns the exit code: 0; 1 when the tokenizer cannot be loaded, a line is not a JSON
// string (its number goes to standard error, answers of earlier lines are written) or writing
// fails; 2 for wrong usage.
int RunTokenize(const std::vector<std::string>& args);

}  // namespace chord::cli
