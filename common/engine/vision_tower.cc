#include "common/engine/vision_tower.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/engine/backend.h"
#include "common/engine/cpu/cpu_backend.h"
#include "common/engine/cuda_vision_tower.h"
#include "common/engine/rope.h"
#include "common/engine/torch/torch_guard.h"
#include "common/engine/weights.h"
#include "common/engine/window_layout.h"
#include "common/image/preprocess.h"

namespace chord::engine {
namespace {

constexpr float kNormEps = 1e-6f;      // fixed by the architecture, whatever config.json says
constexpr double kRopeTheta = 10'000;  // likewise
// Rows that go through patch embedding and MLP at once; bounds their intermediate results.
constexpr int64_t kRowChunk = 4'096;
// Workspaces of larger batches are given back after the call.
constexpr int64_t kKeepPatches = 16'384;

struct Block {
  Mat norm1, norm2;
  LinearLayer qkv, proj, gate, up, down;
  bool full_attention = false;
};

absl::Status CheckConfig(const model::VisionConfig& c) {
  const auto invalid = [](absl::string_view what) {
    return errors::CheckpointInvalid(absl::StrCat("vision_config: ", what));
  };
  if (c.depth < 1 || c.num_heads < 1 || c.hidden_size < 1 || c.intermediate_size < 1 ||
      c.out_hidden_size < 1 || c.in_channels < 1 || c.patch_size < 1 || c.temporal_patch_size < 1 ||
      c.spatial_merge_size < 1) {
    return invalid("every size must be positive");
  }
  if (c.hidden_size % c.num_heads != 0 || c.head_dim() % 4 != 0) {
    return invalid("hidden_size / num_heads must be a multiple of 4");
  }
  if (c.window_size < c.patch_size * c.spatial_merge_size) {
    return invalid("window_size is smaller than one merged cell");
  }
  if (c.head_dim() > kMaxHeadDim || c.hidden_size > kMaxWidth || c.intermediate_size > kMaxWidth ||
      c.out_hidden_size > kMaxWidth ||
      int64_t{c.hidden_size} * c.spatial_merge_size * c.spatial_merge_size > kMaxWidth) {
    return invalid("wider than this engine takes");
  }
  return absl::OkStatus();
}

class VisionTowerImpl final : public VisionTower {
 public:
  VisionTowerImpl(std::shared_ptr<const model::Checkpoint> checkpoint,
                  const model::ModelConfig& config, const Options& options)
      : checkpoint_(std::move(checkpoint)),
        config_(config.vision),
        geometry_(config.geometry),
        normalization_(config.normalization),
        weights_(options.weights),
        on_cpu_(options.device.kind == Device::Kind::kCpu),
        backend_(Backend::Create(options.device, options.dtype)) {}

  absl::Status LoadWeights() {
    const model::VisionConfig& c = config_;
    const int64_t width = c.hidden_size, inner = c.intermediate_size;
    const int64_t merged = width * c.spatial_merge_size * c.spatial_merge_size;
    WeightReader reader(*checkpoint_, *backend_, {weights_});
    CHORD_ASSIGN_OR_RETURN(
        patch_embed_.weight,
        reader.Matrix("visual.patch_embed.proj.weight",
                      {width, c.in_channels, c.temporal_patch_size, c.patch_size, c.patch_size}));
    for (int i = 0; i < c.depth; ++i) {
      const std::string name = absl::StrCat("visual.blocks.", i, ".");
      Block block;
      CHORD_ASSIGN_OR_RETURN(block.norm1, reader.Vector(name + "norm1.weight", width));
      CHORD_ASSIGN_OR_RETURN(block.norm2, reader.Vector(name + "norm2.weight", width));
      CHORD_ASSIGN_OR_RETURN(block.qkv, reader.Linear(name + "attn.qkv", 3 * width, width, true));
      CHORD_ASSIGN_OR_RETURN(block.proj, reader.Linear(name + "attn.proj", width, width, true));
      CHORD_ASSIGN_OR_RETURN(block.gate, reader.Linear(name + "mlp.gate_proj", inner, width, true));
      CHORD_ASSIGN_OR_RETURN(block.up, reader.Linear(name + "mlp.up_proj", inner, width, true));
      CHORD_ASSIGN_OR_RETURN(block.down, reader.Linear(name + "mlp.down_proj", width, inner, true));
      block.full_attention =
          std::count(c.fullatt_block_indexes.begin(), c.fullatt_block_indexes.end(), i) > 0;
      blocks_.push_back(block);
    }
    CHORD_ASSIGN_OR_RETURN(merger_norm_, reader.Vector("visual.merger.ln_q.weight", width));
    CHORD_ASSIGN_OR_RETURN(merger_in_, reader.Linear("visual.merger.mlp.0", merged, merged, true));
    CHORD_ASSIGN_OR_RETURN(merger_out_,
                           reader.Linear("visual.merger.mlp.2", c.out_hidden_size, merged, true));
    packed_bytes_ = reader.packed_bytes();

    Backend* backend = backend_.get();
    patches_ = Workspace(backend, patch_embed_.weight.cols);
    hidden_ = Workspace(backend, width);
    normed_ = Workspace(backend, width);
    qkv_ = Workspace(backend, 3 * width);
    inner_ = Workspace(backend, inner);
    cos_ = Workspace(backend, c.head_dim() / 2, model::DType::kFloat32);
    sin_ = Workspace(backend, c.head_dim() / 2, model::DType::kFloat32);
    merged_ = Workspace(backend, merged);
    output_ = Workspace(backend, c.out_hidden_size);
    return absl::OkStatus();
  }

  absl::StatusOr<Output> Encode(absl::Span<const float> patches,
                                absl::Span<const image::Grid> grids,
                                const CancelToken& cancel) override {
    CHORD_ASSIGN_OR_RETURN(const int64_t count, CheckInput(patches, grids));
    absl::StatusOr<Output> output =
        Guard([&]() -> absl::StatusOr<Output> { return Run(patches, count, grids, cancel); });
    if (count > kKeepPatches || !output.ok()) {
      for (Workspace* workspace :
           {&patches_, &hidden_, &normed_, &qkv_, &inner_, &cos_, &sin_, &merged_, &output_}) {
        workspace->Release();
      }
    }
    return output;
  }

  absl::StatusOr<Output> EncodePixels(absl::Span<const uint8_t> pixels,
                                      absl::Span<const image::Grid> grids,
                                      const CancelToken& cancel) override {
    std::vector<float> patches(pixels.size() * geometry_.temporal_patch_size);
    size_t at = 0;
    for (const image::Grid& grid : grids) {
      image::RgbImage resized{grid.w * geometry_.patch_size, grid.h * geometry_.patch_size, {}};
      const auto bytes =
          static_cast<size_t>(grid.patches()) * 3 * geometry_.patch_size * geometry_.patch_size;
      if (grid.h < 1 || grid.w < 1 || bytes > pixels.size() - at) {
        return absl::InvalidArgumentError("pixels and grids disagree");
      }
      resized.rgb.assign(pixels.begin() + at, pixels.begin() + at + bytes);
      CHORD_RETURN_IF_ERROR(
          image::Patchify(resized, geometry_, normalization_, image::ResizeMode::kTorch,
                          absl::MakeSpan(patches).subspan(at * geometry_.temporal_patch_size,
                                                          bytes * geometry_.temporal_patch_size)));
      at += bytes;
    }
    if (at != pixels.size()) return absl::InvalidArgumentError("pixels and grids disagree");
    return Encode(patches, grids, cancel);
  }

  int64_t packed_bytes() const override { return packed_bytes_; }
  std::string backend() const override { return on_cpu_ ? "cpu" : "libtorch"; }

 private:
  absl::StatusOr<int64_t> CheckInput(absl::Span<const float> patches,
                                     absl::Span<const image::Grid> grids) const {
    const int merge = config_.spatial_merge_size;
    int64_t count = 0;
    for (const image::Grid& grid : grids) {
      if (grid.h < 1 || grid.w < 1 || grid.h % merge != 0 || grid.w % merge != 0) {
        return absl::InvalidArgumentError(
            "grid sides must be positive multiples of the merge size");
      }
      count += grid.patches();
      if (count > std::numeric_limits<int32_t>::max()) {
        return absl::InvalidArgumentError("too many patches in one batch");
      }
    }
    if (count == 0 || static_cast<int64_t>(patches.size()) != count * patch_embed_.weight.cols) {
      return absl::InvalidArgumentError("patches and grids disagree");
    }
    return count;
  }

  // cos, sin [patches, head_dim / 2] of rows in the tower's order: y's frequencies, then x's.
  void PlaceRope(absl::Span<const image::Grid> grids, absl::Span<const int32_t> rows,
                 const Mat& cos, const Mat& sin) {
    const int merge = config_.spatial_merge_size;
    const int64_t half = config_.head_dim() / 2, quarter = half / 2;
    int side = 0;
    for (const image::Grid& grid : grids) side = std::max({side, grid.h, grid.w});
    if (side > rope_.positions) {
      rope_ = MakeRopeTable(kRopeTheta, half, side, model::DType::kFloat32);
    }
    // In the order of the input first: merge groups of each image.
    std::vector<float> c(rows.size() * half), s(rows.size() * half);
    int64_t row = 0;
    for (const image::Grid& grid : grids) {
      for (int top = 0; top < grid.h; top += merge) {
        for (int left = 0; left < grid.w; left += merge) {
          for (int cell = 0; cell < merge * merge; ++cell, ++row) {
            const int64_t y = top + cell / merge, x = left + cell % merge;
            std::copy_n(&rope_.cos[y * quarter], quarter, &c[row * half]);
            std::copy_n(&rope_.cos[x * quarter], quarter, &c[row * half + quarter]);
            std::copy_n(&rope_.sin[y * quarter], quarter, &s[row * half]);
            std::copy_n(&rope_.sin[x * quarter], quarter, &s[row * half + quarter]);
          }
        }
      }
    }
    backend_->Upload(c.data(), half, rows, cos);
    backend_->Upload(s.data(), half, rows, sin);
  }

  absl::StatusOr<Output> Run(absl::Span<const float> patches, int64_t count,
                             absl::Span<const image::Grid> grids, const CancelToken& cancel) {
    const int merge = config_.spatial_merge_size;
    const int64_t group = int64_t{merge} * merge;
    WindowLayout layout =
        PlanWindows(grids, merge, config_.window_size / config_.patch_size / merge);
    GroupBySize(&layout);
    std::vector<int32_t> rows(count);  // the input row of each row of the tower
    for (int64_t row = 0; row < count; ++row) {
      rows[row] = static_cast<int32_t>(layout.index[row / group] * group + row % group);
    }

    const Mat hidden = hidden_.Take(count), normed = normed_.Take(count);
    const Mat qkv = qkv_.Take(count), attended = normed;  // normed is done with when qkv is there
    const Mat cos = cos_.Take(count), sin = sin_.Take(count);
    PlaceRope(grids, rows, cos, sin);
    ForChunks(count, [&](int64_t begin, int64_t n) {
      const Mat chunk = patches_.Take(n);
      backend_->Upload(patches.data(), chunk.cols, absl::MakeConstSpan(rows).subspan(begin, n),
                       chunk);
      backend_->Linear(chunk, patch_embed_, hidden.Rows(begin, n));
    });
    for (const Block& block : blocks_) {
      CHORD_RETURN_IF_ERROR(cancel.Check());
      backend_->RmsNorm(hidden, block.norm1, kNormEps, normed);
      backend_->Linear(normed, block.qkv, qkv);
      backend_->Rotate(qkv.Cols(0, 2 * hidden.cols), 2 * config_.num_heads, cos, sin,
                       /*round_each=*/false);
      backend_->SegmentAttention(qkv, config_.num_heads,
                                 block.full_attention ? layout.images : layout.windows, attended);
      backend_->LinearAdd(attended, block.proj, hidden);
      backend_->RmsNorm(hidden, block.norm2, kNormEps, normed);
      ForChunks(count, [&](int64_t begin, int64_t n) {
        const Mat inner = inner_.Take(n);
        backend_->GatedLinear(normed.Rows(begin, n), block.gate, block.up, inner);
        backend_->LinearAdd(inner, block.down, hidden.Rows(begin, n));
      });
    }
    CHORD_RETURN_IF_ERROR(cancel.Check());
    backend_->RmsNorm(hidden, merger_norm_, kNormEps, normed);
    const int64_t cells = count / group;
    const Mat groups{normed.data, normed.dtype, cells, normed.cols * group, normed.stride * group};
    const Mat merged = merged_.Take(cells), output = output_.Take(cells);
    backend_->Linear(groups, merger_in_, merged);
    backend_->Gelu(merged);
    backend_->Linear(merged, merger_out_, output);

    Output result{output.dtype, cells, output.cols, {}};
    result.bytes.resize(cells * output.cols * model::SizeOf(output.dtype));
    backend_->DownloadRows(output, layout.index, result.bytes.data());
    return result;
  }

  template <typename Fn>
  static void ForChunks(int64_t rows, const Fn& fn) {
    for (int64_t begin = 0; begin < rows; begin += kRowChunk) {
      fn(begin, std::min(kRowChunk, rows - begin));
    }
  }

  const std::shared_ptr<const model::Checkpoint> checkpoint_;  // its mapping holds the weights
  const model::VisionConfig config_;
  const image::PatchGeometry geometry_;
  const image::Normalization normalization_;
  const WeightFormat weights_;
  const bool on_cpu_;
  const std::unique_ptr<Backend> backend_;
  LinearLayer patch_embed_;
  int64_t packed_bytes_ = 0;
  std::vector<Block> blocks_;
  Mat merger_norm_;
  LinearLayer merger_in_, merger_out_;
  RopeTable rope_;
  Workspace patches_, hidden_, normed_, qkv_, inner_, cos_, sin_, merged_, output_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VisionTower>> VisionTower::Load(
    std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
    const Options& options) {
  CHORD_RETURN_IF_ERROR(CheckConfig(config.vision));
  if (options.weights.packed() && options.device.kind != Device::Kind::kCpu) {
    return errors::ConfigInvalid("packed weights (int8, int4) need the device cpu");
  }
  if (MayUseCudaKernels(options)) {
    absl::StatusOr<std::unique_ptr<VisionTower>> tower =
        LoadCudaVisionTower(checkpoint, config, options);
    const bool unavailable = errors::Is(tower.status(), Reason::kDeviceUnavailable);
    if (!unavailable || options.attention == Attention::kFlash) return tower;
    if (options.on_fallback) options.on_fallback(tower.status());
  }
  return Guard([&]() -> absl::StatusOr<std::unique_ptr<VisionTower>> {
    SelectTorchAttention(options.device, options.attention);
    auto tower = std::make_unique<VisionTowerImpl>(std::move(checkpoint), config, options);
    CHORD_RETURN_IF_ERROR(tower->LoadWeights());
    return tower;
  });
}

}  // namespace chord::engine
