#include "common/engine/cuda_vision_tower.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/engine/cuda/tower_api.h"
#include "common/engine/cuda_plugin.h"
#include "common/engine/rope.h"
#include "common/engine/torch/torch_guard.h"
#include "common/engine/tower_plan.h"
#include "common/image/preprocess.h"

namespace chord::engine {
namespace {

constexpr float kNormEps = 1e-6f;      // fixed by the architecture, whatever config.json says
constexpr double kRopeTheta = 10'000;  // likewise
// Memory of larger batches is given back after the call.
constexpr int64_t kKeepPatches = 16'384;

cuda::Dtype ToCuda(model::DType dtype) {
  switch (dtype) {
    case model::DType::kBFloat16:
      return cuda::Dtype::kBFloat16;
    case model::DType::kFloat16:
      return cuda::Dtype::kFloat16;
    default:
      return cuda::Dtype::kFloat32;
  }
}

// Tensors of the checkpoint by name and exact shape, as the plugin takes them.
class Reader {
 public:
  explicit Reader(const model::Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  absl::Status Matrix(const std::string& name, absl::Span<const int64_t> shape,
                      cuda::HostTensor* out) const {
    CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor, checkpoint_.Get(name, shape));
    int64_t count = 1;
    for (const int64_t side : shape) count *= side;
    *out = {tensor.data, ToCuda(tensor.dtype), shape[0], count / shape[0]};
    return absl::OkStatus();
  }
  absl::Status Vector(const std::string& name, int64_t size, cuda::HostTensor* out) const {
    CHORD_RETURN_IF_ERROR(Matrix(name, {size}, out));
    std::swap(out->rows, out->cols);
    return absl::OkStatus();
  }
  absl::Status Linear(const std::string& name, int64_t out, int64_t in, cuda::HostTensor* weight,
                      cuda::HostTensor* bias) const {
    CHORD_RETURN_IF_ERROR(Matrix(name + ".weight", {out, in}, weight));
    return Vector(name + ".bias", out, bias);
  }

 private:
  const model::Checkpoint& checkpoint_;
};

absl::Status ReadBlock(const Reader& reader, const std::string& name, int64_t width, int64_t inner,
                       cuda::TowerBlockWeights* block) {
  CHORD_RETURN_IF_ERROR(reader.Vector(name + "norm1.weight", width, &block->norm1));
  CHORD_RETURN_IF_ERROR(reader.Vector(name + "norm2.weight", width, &block->norm2));
  CHORD_RETURN_IF_ERROR(
      reader.Linear(name + "attn.qkv", 3 * width, width, &block->qkv, &block->qkv_bias));
  CHORD_RETURN_IF_ERROR(
      reader.Linear(name + "attn.proj", width, width, &block->proj, &block->proj_bias));
  CHORD_RETURN_IF_ERROR(
      reader.Linear(name + "mlp.gate_proj", inner, width, &block->gate, &block->gate_bias));
  CHORD_RETURN_IF_ERROR(
      reader.Linear(name + "mlp.up_proj", inner, width, &block->up, &block->up_bias));
  return reader.Linear(name + "mlp.down_proj", width, inner, &block->down, &block->down_bias);
}

// Fills `options` and `blocks`, which it points to, with views of the checkpoint.
absl::Status ReadWeights(const model::Checkpoint& checkpoint, const model::VisionConfig& c,
                         cuda::TowerOptions* options,
                         std::vector<cuda::TowerBlockWeights>* blocks) {
  const Reader reader(checkpoint);
  const int64_t width = c.hidden_size;
  const int64_t merged = width * c.spatial_merge_size * c.spatial_merge_size;
  CHORD_RETURN_IF_ERROR(
      reader.Matrix("visual.patch_embed.proj.weight",
                    {width, c.in_channels, c.temporal_patch_size, c.patch_size, c.patch_size},
                    &options->patch_embed));
  blocks->resize(c.depth);
  for (int i = 0; i < c.depth; ++i) {
    cuda::TowerBlockWeights& block = (*blocks)[i];
    CHORD_RETURN_IF_ERROR(ReadBlock(reader, absl::StrCat("visual.blocks.", i, "."), width,
                                    c.intermediate_size, &block));
    block.full_attention =
        std::count(c.fullatt_block_indexes.begin(), c.fullatt_block_indexes.end(), i) > 0;
  }
  options->blocks = blocks->data();
  CHORD_RETURN_IF_ERROR(reader.Vector("visual.merger.ln_q.weight", width, &options->merger_norm));
  CHORD_RETURN_IF_ERROR(reader.Linear("visual.merger.mlp.0", merged, merged, &options->merger_in,
                                      &options->merger_in_bias));
  return reader.Linear("visual.merger.mlp.2", c.out_hidden_size, merged, &options->merger_out,
                       &options->merger_out_bias);
}

class CudaVisionTower final : public VisionTower {
 public:
  CudaVisionTower(const model::VisionConfig& config, model::DType dtype,
                  std::unique_ptr<cuda::Tower> tower)
      : config_(config), dtype_(dtype), tower_(std::move(tower)) {}

  absl::StatusOr<Output> Encode(absl::Span<const float> patches,
                                absl::Span<const image::Grid> grids,
                                const CancelToken& cancel) override {
    return Run(grids, patches, {}, cancel);
  }
  absl::StatusOr<Output> EncodePixels(absl::Span<const uint8_t> pixels,
                                      absl::Span<const image::Grid> grids,
                                      const CancelToken& cancel) override {
    return Run(grids, {}, pixels, cancel);
  }
  bool prefers_pixels() const override { return true; }
  std::string backend() const override { return "cuda kernels"; }

 private:
  // Patches of all grids.
  absl::StatusOr<int64_t> Count(absl::Span<const image::Grid> grids) const {
    const int merge = config_.spatial_merge_size;
    const int64_t patch_bytes = int64_t{3} * config_.patch_size * config_.patch_size;
    int64_t count = 0;
    for (const image::Grid& grid : grids) {
      if (grid.h < 1 || grid.w < 1 || grid.h % merge != 0 || grid.w % merge != 0) {
        return absl::InvalidArgumentError(
            "grid sides must be positive multiples of the merge size");
      }
      count += grid.patches();
      if (std::max(grid.h, grid.w) > std::numeric_limits<int16_t>::max() ||
          count > std::numeric_limits<int32_t>::max() / patch_bytes) {
        return absl::InvalidArgumentError("too many patches in one batch");
      }
    }
    return count;
  }

  absl::StatusOr<Output> Run(absl::Span<const image::Grid> grids, absl::Span<const float> patches,
                             absl::Span<const uint8_t> pixels, const CancelToken& cancel) {
    CHORD_ASSIGN_OR_RETURN(const int64_t count, Count(grids));
    const int64_t samples = count * 3 * config_.patch_size * config_.patch_size;
    const bool fits = patches.empty() ? static_cast<int64_t>(pixels.size()) == samples
                                      : static_cast<int64_t>(patches.size()) ==
                                            samples * config_.temporal_patch_size;
    if (count == 0 || !fits) return absl::InvalidArgumentError("patches and grids disagree");
    CHORD_RETURN_IF_ERROR(cancel.Check());
    const absl::Status planned = Plan(grids, count);
    if (!planned.ok()) {
      planned_.clear();
      return planned;
    }
    const int64_t cells = count / (config_.spatial_merge_size * config_.spatial_merge_size);
    Output out{dtype_, cells, config_.out_hidden_size, {}};
    absl::Status encoded =
        FromCuda(tower_->Start(patches.empty() ? nullptr : patches.data(), pixels.data(),
                               static_cast<int64_t>(pixels.size())));
    if (encoded.ok()) {
      out.bytes.resize(cells * out.width * model::SizeOf(dtype_));  // beside the device's work
      encoded = FromCuda(tower_->Finish(out.bytes.data()));
    }
    if (count > kKeepPatches || !encoded.ok()) {
      tower_->Release();
      planned_.clear();
    }
    CHORD_RETURN_IF_ERROR(encoded);
    CHORD_RETURN_IF_ERROR(cancel.Check());
    return out;
  }

  // The device keeps the plan of the sizes that came last.
  absl::Status Plan(absl::Span<const image::Grid> grids, int64_t count) {
    if (planned_ == grids) return absl::OkStatus();
    const TowerPlanArrays arrays = PlanTower(grids, config_);
    const int64_t half = config_.head_dim() / 2;
    if (arrays.side > rope_.positions) {
      CHORD_RETURN_IF_ERROR(Guard([&] {
        rope_ = MakeRopeTable(kRopeTheta, half, arrays.side, model::DType::kFloat32);
        return absl::OkStatus();
      }));
    }
    cuda::TowerPlan plan;
    plan.rows = count;
    plan.source = arrays.source.data();
    plan.pixel = arrays.pixel.data();
    plan.stride = arrays.stride.data();
    plan.positions = arrays.positions.data();
    plan.target = arrays.target.data();
    plan.windows = arrays.windows.data();
    plan.window_count = static_cast<int>(arrays.windows.size());
    plan.images = arrays.images.data();
    plan.image_count = static_cast<int>(arrays.images.size());
    plan.rope_cos = rope_.cos.data();
    plan.rope_sin = rope_.sin.data();
    plan.rope_side = arrays.side;
    CHORD_RETURN_IF_ERROR(FromCuda(tower_->SetPlan(plan)));
    planned_.assign(grids.begin(), grids.end());
    return absl::OkStatus();
  }

  const model::VisionConfig config_;
  const model::DType dtype_;
  const std::unique_ptr<cuda::Tower> tower_;
  std::vector<image::Grid> planned_;
  RopeTable rope_;
};

}  // namespace

bool MayUseCudaKernels(const VisionTower::Options& options) {
  return options.device.kind == Device::Kind::kCuda && options.dtype != model::DType::kFloat32 &&
         (options.attention == Attention::kAuto || options.attention == Attention::kFlash);
}

absl::StatusOr<std::unique_ptr<VisionTower>> LoadCudaVisionTower(
    std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
    const VisionTower::Options& options) {
  CHORD_ASSIGN_OR_RETURN(const cuda::Api* api, LoadCudaPlugin());
  const model::VisionConfig& c = config.vision;
  cuda::TowerOptions tower_options;
  tower_options.device = options.device.index;
  tower_options.dtype = ToCuda(options.dtype);
  tower_options.depth = c.depth;
  tower_options.width = c.hidden_size;
  tower_options.heads = c.num_heads;
  tower_options.inner = c.intermediate_size;
  tower_options.out_width = c.out_hidden_size;
  tower_options.cell = c.spatial_merge_size * c.spatial_merge_size;
  tower_options.patch_side = c.patch_size;
  tower_options.temporal = c.temporal_patch_size;
  tower_options.norm_eps = kNormEps;
  tower_options.portable = options.portable_kernels;
  const image::SampleTable samples =
      image::NormalizedSamples(config.normalization, image::ResizeMode::kTorch);
  tower_options.samples = samples[0].data();
  std::vector<cuda::TowerBlockWeights> blocks;
  CHORD_RETURN_IF_ERROR(ReadWeights(*checkpoint, c, &tower_options, &blocks));
  cuda::Tower* tower = nullptr;
  CHORD_RETURN_IF_ERROR(FromCuda(api->create_tower(tower_options, &tower)));
  return std::make_unique<CudaVisionTower>(c, options.dtype, std::unique_ptr<cuda::Tower>(tower));
}

}  // namespace chord::engine
