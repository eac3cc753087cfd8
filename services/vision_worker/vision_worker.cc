#include "services/vision_worker/vision_worker.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/executor.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/obs/log.h"
#include "common/process/loaded_model.h"
#include "common/process/worker_server.h"
#include "services/vision_worker/encode_service.h"
#include "services/vision_worker/vision_core.h"

namespace chord::vision_worker {
namespace {

// Half of the processors: the tower wants the others. More than a few only compete for memory.
int ImageThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 2, 8);
}

// One image of the usual size, so that the first use of every kernel and buffer is ours, and so
// that the queue has a first idea of how long a batch takes.
//
// A GPU's libraries choose a kernel by the number of rows and load it at its first use, up to a
// tenth of a second each. So there: first an image of every size class up to a whole batch.
absl::Status WarmUp(const Core& core, int64_t max_patches, bool size_classes) {
  // A CPU needs no more than an idea of its speed and the weights in memory: of a large model the
  // usual image takes ten seconds.
  const int usual_side = size_classes ? 512 : 224;
  constexpr int kLargestSide = 4096;
  const auto plan = [&](int side) {
    image::Header header;
    header.width = header.height = side;
    return image::PlanFrame(header, core.rules.geometry);
  };
  const auto encode = [&](const image::FramePlan& frame) {
    if (core.rules.keep_pixels) {
      const std::vector<uint8_t> pixels(size_t{3} * frame.resized.width * frame.resized.height);
      return core.tower->EncodePixels(pixels, {frame.grid}, CancelToken()).status();
    }
    const std::vector<float> patches(frame.grid.patches() * core.rules.values_per_patch);
    return core.tower->Encode(patches, {frame.grid}, CancelToken()).status();
  };
  CHORD_ASSIGN_OR_RETURN(const auto usual, plan(usual_side));
  if (size_classes) {
    int64_t before = 0;
    for (int side = 64; side <= kLargestSide; side = side * 5 / 4) {
      CHORD_ASSIGN_OR_RETURN(const auto frame, plan(side));
      if (frame.grid.patches() > max_patches) break;
      if (frame.grid.patches() == before) continue;  // scaled to the model's bounds
      before = frame.grid.patches();
      CHORD_RETURN_IF_ERROR(encode(frame));
    }
    CHORD_RETURN_IF_ERROR(encode(usual));
  }
  const absl::Time began = absl::Now();
  CHORD_RETURN_IF_ERROR(encode(usual));
  core.queue->Observe(usual.grid.patches(), absl::Now() - began);
  return absl::OkStatus();
}

class VisionWorkerImpl final : public VisionWorker {
 public:
  VisionWorkerImpl(const Settings& settings, obs::Metrics* metrics)
      : settings_(settings),
        metrics_(metrics),
        bytes_(4 * settings.max_image_bytes),
        pixels_(settings.max_pixels_in_flight),
        executor_(std::make_unique<Executor>(ImageThreads(), settings.max_queue)),
        server_(WorkerServerOptions(settings, metrics),
                {[this] { return LoadModel(); }, [this] { Unload(); },
                 [this](absl::Time now) { Tick(now); },
                 [this](internal::v1::WorkerState* state) { AddState(state); }}),
        encode_(EncodeOptions(settings),
                {&server_.gate(), executor_.get(), &bytes_, &pixels_, &loaded_, metrics}) {}
  ~VisionWorkerImpl() override { server_.Stop(absl::Now()); }

  absl::Status Listen() { return server_.Listen({&encode_}); }
  absl::Status Load() override { return server_.Load(); }
  void Drain() override { server_.Drain(); }
  int port() const override { return server_.port(); }

  Counts counts() const override {
    Counts out;
    out.calls = server_.gate().inside();
    out.image_bytes = bytes_.in_use();
    out.pixels = pixels_.in_use();
    if (const Core* core = loaded_.get()) {
      out.patches = core->queue->patches_in_flight();
      out.queued = core->queue->queued();
      out.running = core->queue->running();
    }
    return out;
  }

 private:
  static EncodeService::Options EncodeOptions(const Settings& settings) {
    EncodeService::Options out;
    out.max_image_bytes = settings.max_image_bytes;
    out.max_inside = 2 * settings.max_queue;  // a full queue and a full batch
    return out;
  }
  static process::WorkerServer::Options WorkerServerOptions(const Settings& settings,
                                                            obs::Metrics* metrics) {
    process::WorkerServer::Options out;
    out.role = internal::v1::WorkerState::ROLE_VISION;
    out.role_word = "vision";
    out.ready_service = "chord.internal.v1.Vision";
    out.address = settings.address;
    out.metrics_address = settings.metrics_address;
    out.model_dir = settings.model_dir;
    out.drain = settings.drain;
    out.metrics = metrics;
    return out;
  }

  absl::Status LoadModel() {
    const std::string& dir = settings_.model_dir;
    CHORD_RETURN_IF_ERROR(engine::InitEngine(settings_.threads));
    auto core = std::make_unique<Core>();
    CHORD_ASSIGN_OR_RETURN(core->config, model::LoadModelConfig(dir));
    CHORD_ASSIGN_OR_RETURN(core->fingerprint, model::Fingerprint(dir));
    CHORD_ASSIGN_OR_RETURN(auto checkpoint, model::Checkpoint::Open(dir));
    CHORD_ASSIGN_OR_RETURN(auto device, engine::ParseDevice(settings_.device));
    CHORD_ASSIGN_OR_RETURN(
        const engine::Precision precision,
        engine::ParsePrecision(settings_.dtype, device, core->config.declared_dtype));
    core->row_dtype = precision.compute;
    core->device = device.ToString();
    core->dtype = precision.name;
    const model::VisionConfig& vision = core->config.vision;
    core->rules.geometry = core->config.geometry;
    core->rules.normalization = core->config.normalization;
    core->rules.limits.max_bytes = settings_.max_image_bytes;
    core->rules.limits.max_pixels = settings_.max_image_pixels;
    core->rules.limits.max_metadata_bytes = settings_.max_image_metadata_bytes;
    core->rules.values_per_patch =
        vision.in_channels * vision.temporal_patch_size * vision.patch_size * vision.patch_size;
    core->language_workers = std::make_unique<LanguagePeers>(settings_.language_workers);
    obs::Log(obs::LogLevel::kInfo, "loading_weights",
             {{"device", core->device},
              {"dtype", core->dtype},
              {"checkpoint_bytes", checkpoint->total_bytes()}});
    engine::VisionTower::Options options;
    options.device = device;
    options.dtype = core->row_dtype;
    options.weights = precision.weights;
    options.attention = settings_.attention;
    options.on_fallback = [](const absl::Status& reason) {
      obs::Log(obs::LogLevel::kWarning, "cuda_kernels_unavailable",
               {{"part", "vision"}, {"reason", std::string(reason.message())}});
    };
    CHORD_ASSIGN_OR_RETURN(core->tower,
                           engine::VisionTower::Load(checkpoint, core->config, options));
    core->rules.keep_pixels = core->tower->prefers_pixels();
    obs::Log(obs::LogLevel::kInfo, "warming_up", {});
    EncodeQueue::Options queue;
    queue.max_queue = settings_.max_queue;
    queue.max_batch_patches = settings_.max_batch_patches > 0 ? settings_.max_batch_patches
                              : device.kind == engine::Device::Kind::kCuda ? kBatchPatchesOnGpu
                                                                           : kBatchPatchesOnCpu;
    core->queue = std::make_unique<EncodeQueue>(core->tower.get(), queue, metrics_);
    CHORD_RETURN_IF_ERROR(
        WarmUp(*core, queue.max_batch_patches, device.kind == engine::Device::Kind::kCuda));

    metrics_->SetModelInfo(process::ModelName(dir), core->fingerprint, core->dtype, core->device);
    loaded_.Set(std::move(core));
    return absl::OkStatus();
  }

  // No call is left. Threads end in the order in which they use each other.
  void Unload() {
    executor_ = nullptr;
    loaded_.Reset();
  }

  void Tick(absl::Time now) {
    encode_.Sweep(now);
    Core* core = loaded_.get();
    if (core == nullptr) return;
    core->queue->Sweep();
    metrics_->SetQueueDepth(obs::Queue::kEncode, core->queue->queued());
    metrics_->SetQueueAge(obs::Queue::kEncode, core->queue->oldest());
  }

  void AddState(internal::v1::WorkerState* state) const {
    state->set_queue_capacity(settings_.max_queue);
    const Core* core = loaded_.get();
    if (core == nullptr) return;
    state->set_model_fingerprint(core->fingerprint);
    state->set_device(core->device);
    state->set_dtype(core->dtype);
    state->set_requests_queued(core->queue->queued());
    state->set_patches_in_flight(core->queue->patches_in_flight());
  }

  const Settings settings_;
  obs::Metrics* const metrics_;
  ResourceBudget bytes_, pixels_;
  std::unique_ptr<Executor> executor_;
  process::LoadedModel<Core> loaded_;
  process::WorkerServer server_;
  EncodeService encode_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VisionWorker>> VisionWorker::Start(const Settings& settings,
                                                                  obs::Metrics* metrics) {
  auto worker = std::make_unique<VisionWorkerImpl>(settings, metrics);
  CHORD_RETURN_IF_ERROR(worker->Listen());
  return worker;
}

}  // namespace chord::vision_worker
