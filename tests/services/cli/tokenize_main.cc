// `chord tokenize` alone, so that it can be checked without the rest of the command.
#include "services/cli/tokenize.h"

int main(int argc, char** argv) {
  return argc < 2 ? 2 : chord::cli::RunTokenize(argc - 1, argv + 1);
}
