#include "services/llm_worker/sequence.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace chord::llm_worker {
namespace {

constexpr SequencePhase kPhases[] = {SequencePhase::kQueued, SequencePhase::kAwaitingEmbeddings,
                                     SequencePhase::kPrefill, SequencePhase::kDecode,
                                     SequencePhase::kEnded};

TEST(SequencePhases, OnlyTheEdgesOfTheDiagramExist) {
  using P = SequencePhase;
  const std::map<P, std::set<P>> edges = {
      {P::kQueued, {P::kAwaitingEmbeddings, P::kPrefill, P::kEnded}},
      {P::kAwaitingEmbeddings, {P::kPrefill, P::kEnded}},
      {P::kPrefill, {P::kDecode, P::kEnded}},
      {P::kDecode, {P::kEnded}},
      {P::kEnded, {}},
  };
  for (const P from : kPhases) {
    for (const P to : kPhases) {
      EXPECT_EQ(CanMove(from, to), edges.at(from).count(to) > 0)
          << SequencePhaseName(from) << " -> " << SequencePhaseName(to);
    }
  }
}

TEST(SequencePhases, HaveDistinctNames) {
  std::set<absl::string_view> names;
  for (const SequencePhase phase : kPhases) names.insert(SequencePhaseName(phase));
  EXPECT_EQ(names.size(), std::size(kPhases));
}

}  // namespace
}  // namespace chord::llm_worker
