#include "services/llm_worker/admission_policy.h"

#include "common/engine/language_model.h"

namespace chord::llm_worker {
namespace {

// Fewer rows that a peer is about to compute are not worth waiting for.
constexpr int kWorthWaiting = 2 * engine::kKvPageTokens;

bool WorthWaitingFor(const AdmissionFacts::Peer& peer, const AdmissionFacts& facts) {
  const bool brings_image =
      facts.cached_rows < facts.image_end && facts.image_end <= peer.shared_rows;
  // A peer that itself waits for embeddings is worth it only for a request that would wait for the
  // same embeddings.
  if (!peer.has_embeddings && (!brings_image || facts.embeddings_arrived)) return false;
  return peer.shared_rows > peer.valid_rows &&
         (brings_image || peer.shared_rows >= facts.cached_rows + kWorthWaiting);
}

}  // namespace

std::optional<absl::Duration> RejectOnArrival(const ArrivalFacts& facts) {
  const Load& load = facts.load;
  if (load.running + load.queued >= load.slots + facts.max_queue) return RetryTime(load);
  return TooLate(load, facts.until_deadline);
}

Admission DecideAdmission(const AdmissionFacts& facts) {
  if (!facts.has_image) return Admission::kAdmit;
  if (!facts.cacheable) {
    return facts.embeddings_arrived ? Admission::kAdmit : Admission::kWaitForEmbeddings;
  }
  for (const AdmissionFacts::Peer& peer : facts.peers) {
    if (WorthWaitingFor(peer, facts)) return Admission::kWaitForPeer;
  }
  const bool cached = facts.cached_rows >= facts.image_end || facts.embeddings_cached;
  return cached || facts.embeddings_arrived ? Admission::kAdmit : Admission::kWaitForEmbeddings;
}

}  // namespace chord::llm_worker
