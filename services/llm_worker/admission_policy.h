// Which request is refused on arrival, and which queued request may start. Pure: facts in, decision
// out.
#pragma once

#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "services/llm_worker/scheduler.h"

namespace chord::llm_worker {

struct ArrivalFacts {
  Load load;                      // with the new request's tokens
  int max_queue = 0;              // requests that may wait beside those that run
  absl::Duration until_deadline;  // of the new request
};
// Set: reject the request now, to come back after this time. Either the queue is full, or the
// request could not be answered before its deadline.
std::optional<absl::Duration> RejectOnArrival(const ArrivalFacts& facts);

enum class Admission {
  kAdmit,              // its KV memory permitting
  kWaitForPeer,        // another sequence is about to compute a prefix that it needs
  kWaitForEmbeddings,  // nothing that is cached will do, and the embeddings are not here
};

struct AdmissionFacts {
  bool has_image = false;
  bool cacheable = false;           // the image has a key, so that cached parts may be used
  bool embeddings_arrived = false;  // of this very request
  bool embeddings_cached = false;   // of an earlier request, same image
  int image_end = 0;                // prompt rows up to the end of the image
  int cached_rows = 0;              // prompt rows whose KV is cached
  struct Peer {                     // a sequence in prefill
    int shared_rows = 0;            // prompt rows that both have in common
    int valid_rows = 0;             // rows of it that are computed
    bool has_embeddings = false;
  };
  std::vector<Peer> peers;
};
Admission DecideAdmission(const AdmissionFacts& facts);

}  // namespace chord::llm_worker
