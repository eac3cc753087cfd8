// How many passes a decode loop needs a box with the box grammar: replays given answers as if a
// model chose them token by token, and times the grammar's own work.
//
//   grammar_replay TOKENIZER_JSON VOCAB_SIZE EOS < CASES
//
// CASES: lines "WIDTH<TAB>HEIGHT<TAB>PROMPT<TAB>ANSWER", in the answer \n and \t for the bytes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/grounding/answer_parser.h"
#include "tests/services/llm_worker/grammar/replay.h"

namespace chord {
namespace {

// Time of this thread on a processor, µs: other programs do not count.
double Now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) / 1e3;
}

// Times of Allowed(), JumpForward() and Draft() over the states of the answers, µs.
using Timing = std::vector<double>[3];

void Time(const grammar::BoxGrammar& grammar, const model::Tokenizer& tokenizer,
          const grammar::BoxRequest& prompt, const std::string& answer, Timing& out) {
  grammar::BoxCursor cursor(&grammar, prompt);
  size_t sink = 0;
  for (const int32_t id : tokenizer.EncodeText(answer)) {
    cursor.Accept(id);
    for (int what = 0; what < 3; ++what) {
      const double begin = Now();
      sink += what == 0   ? cursor.Allowed().size()
              : what == 1 ? cursor.JumpForward().size()
                          : cursor.Draft().size();
      out[what].push_back(Now() - begin);
    }
  }
  if (sink == SIZE_MAX) std::abort();
}

double Percentile(std::vector<double>& times, double p) {
  const auto i = static_cast<ptrdiff_t>(p * static_cast<double>(times.size() - 1));
  std::nth_element(times.begin(), times.begin() + i, times.end());
  return times[static_cast<size_t>(i)];
}

int Main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: grammar_replay TOKENIZER_JSON VOCAB_SIZE EOS < CASES\n");
    return 2;
  }
  const auto tokenizer = model::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  const int32_t eos = std::atoi(argv[3]);
  const double begin = Now();
  const auto grammar = grammar::BoxGrammar::Compile(*tokenizer, std::atoi(argv[2]), {eos});
  if (!grammar.ok()) {
    std::fprintf(stderr, "%s\n", grammar.status().ToString().c_str());
    return 1;
  }
  std::printf("compiled in %.1f ms\n", (Now() - begin) / 1000);
  grammar::Replay sum;
  Timing timing;
  int answers = 0, bad = 0;
  size_t boxes = 0;
  for (std::string line; std::getline(std::cin, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    if (fields.size() != 4) continue;
    const grammar::BoxRequest prompt{std::atoi(fields[0].c_str()), std::atoi(fields[1].c_str()),
                                     fields[2]};
    const std::string answer = absl::StrReplaceAll(fields[3], {{"\\n", "\n"}, {"\\t", "\t"}});
    const grammar::Replay one = grammar::RunReplay(**grammar, *tokenizer, prompt, answer, eos);
    if (!one.error.empty()) {
      std::fprintf(stderr, "%s\n", one.error.c_str());
      ++bad;
      continue;
    }
    Time(**grammar, *tokenizer, prompt, answer, timing);
    ++answers;
    boxes += grounding::ParseAnswer(answer).objects.size();
    sum.tokens += one.tokens;
    sum.passes += one.passes;
    sum.jumped += one.jumped;
    sum.drafted += one.drafted;
    sum.wrong += one.wrong;
    sum.end_passes += one.end_passes;
  }
  if (boxes == 0) {
    std::fprintf(stderr, "no boxes\n");
    return 1;
  }
  const auto per_box = [&](int n) { return n / static_cast<double>(boxes); };
  std::printf("%d answers, %zu boxes, %d not replayed\n", answers, boxes, bad);
  std::printf("a box: %.2f tokens, %.2f passes (jumped %.2f, drafted %.2f, drafted in vain %.2f)\n",
              per_box(sum.tokens), per_box(sum.passes), per_box(sum.jumped), per_box(sum.drafted),
              per_box(sum.wrong));
  std::printf("stopping where the answer is whole, without the end token's pass: %.2f passes\n",
              per_box(sum.passes - sum.end_passes));
  const char* names[] = {"Allowed", "JumpForward", "Draft"};
  for (int what = 0; what < 3; ++what) {
    std::printf("%s: median %.1f us, 99%% %.1f us, worst %.1f us of %zu\n", names[what],
                Percentile(timing[what], 0.5), Percentile(timing[what], 0.99),
                Percentile(timing[what], 1), timing[what].size());
  }
  return 0;
}

}  // namespace
}  // namespace chord

int main(int argc, char** argv) { return chord::Main(argc, argv); }
