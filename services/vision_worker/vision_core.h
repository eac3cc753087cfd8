// What a vision worker has once its model is loaded, shared by its calls.
#pragma once

#include <memory>
#include <string>

#include "common/engine/vision_tower.h"
#include "common/model/model_config.h"
#include "services/vision_worker/encode_queue.h"
#include "services/vision_worker/language_peers.h"
#include "services/vision_worker/prepare.h"

namespace chord::vision_worker {

struct Core {
  model::ModelConfig config;
  PatchRules rules;
  std::string fingerprint;
  std::string device, dtype;                        // as WorkerState shows them
  model::DType row_dtype = model::DType::kFloat32;  // of the rows that travel
  std::unique_ptr<LanguagePeers> language_workers;
  std::unique_ptr<engine::VisionTower> tower;
  std::unique_ptr<EncodeQueue> queue;  // last: its thread uses the tower
};

}  // namespace chord::vision_worker
