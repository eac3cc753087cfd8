// `chord tokenize` alone, so that it can be checked without the rest of the command.
#include <string>
#include <vector>

#include "services/cli/tokenize.h"

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  return chord::cli::RunTokenize(std::vector<std::string>(argv + 2, argv + argc));
}
