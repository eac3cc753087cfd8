// The vision tower as one sequence of launches. Everything that its rows need to know about their
// images comes with the plan; between the upload of pixels and the download of embeddings the host
// waits for nothing.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "common/engine/cuda/memory.h"
#include "common/engine/cuda/status.h"
#include "common/engine/cuda/tower_api.h"
#include "common/engine/cuda/vision_gemm.h"
#include "common/engine/cuda/vision_kernels.h"
#include "common/engine/cuda/weight_upload.cuh"

namespace chord::cuda {
namespace {

using vision::AttentionTile;
using vision::Epilogue;
using vision::GemmProblem;
using vision::Half;
using vision::HalfType;
using vision::PatchPlace;
using vision::Queue;
using vision::WeightUpload;

// The gated width is padded to this, so that its product fills whole tiles.
constexpr int64_t kInnerMultiple = 96;

int64_t RoundUp(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

struct Product {
  DeviceArray<Half> weight, bias;
  int64_t n = 0, k = 0;
};
struct Block {
  DeviceArray<Half> norm1, norm2;
  Product qkv, proj, gated, down;
  bool full_attention = false;
};

// A part of the plan's one upload: `count` values of T behind what is there, at a multiple of 16.
class Packer {
 public:
  template <typename T>
  int64_t Add(const T* values, int64_t count) {
    const auto at = RoundUp(static_cast<int64_t>(bytes_.size()), 16);
    bytes_.resize(at + count * sizeof(T));
    if (count > 0) std::memcpy(bytes_.data() + at, values, count * sizeof(T));
    return at;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

class TowerImpl final : public Tower {
 public:
  explicit TowerImpl(const TowerOptions& options)
      : options_(options),
        type_(options.dtype == Dtype::kBFloat16 ? HalfType::kBf16 : HalfType::kFp16),
        patch_values_(int64_t{3} * options.temporal * options.patch_side * options.patch_side),
        inner_(RoundUp(options.inner, kInnerMultiple)),
        sm90_(!options.portable && vision::HasSm90Gemm(options.device)),
        rotates_(sm90_ && options.width / options.heads == vision::kRopeHeadDim && !(std::getenv("CHORD_OWN") && !(std::atoi(std::getenv("CHORD_OWN")) & 16))),
        queue_{stream_.get(), sm90_},
        library_(type_) {
    LoadWeights(options);
    options_.samples = nullptr;  // pointers of the caller end here
    options_.blocks = nullptr;
    options_.patch_embed = options_.merger_norm = {};
    options_.merger_in = options_.merger_in_bias = {};
    options_.merger_out = options_.merger_out_bias = {};
  }

  Status SetPlan(const TowerPlan& plan) override {
    return Guarded([&] {
      const DeviceScope scope(options_.device);
      rows_ = 0;
      Reserve(plan.rows);
      UploadPlan(plan);
      rows_ = plan.rows;
    });
  }

  Status Start(const float* patches, const uint8_t* pixels, int64_t pixel_bytes) override {
    return Guarded([&] {
      if (rows_ < 1) throw Error(Code::kFailed, "Start without a plan");
      const DeviceScope scope(options_.device);
      if (patches != nullptr) {
        UploadPatches(patches);
      } else {
        UploadPixels(pixels, pixel_bytes);
      }
      Embed();
      for (const Block& block : blocks_) RunBlock(block);
      Merge();
      CHORD_CUDA_CHECK(cudaMemcpyAsync(staged_out_.get(), output_.get(), OutputBytes(),
                                       cudaMemcpyDeviceToHost, stream_.get()));
    });
  }

  Status Finish(void* out) override {
    return Guarded([&] {
      const DeviceScope scope(options_.device);
      stream_.Wait();
      std::memcpy(out, staged_out_.get(), OutputBytes());
    });
  }

  void Release() override {
    rows_ = reserved_ = 0;
    input_ = {};
    plan_ = {};
    staged_in_ = {};
    staged_plan_ = {};
    staged_out_ = {};
    for (DeviceArray<Half>* array :
         {&patches_, &hidden_, &normed_, &qkv_, &gated_, &merged_, &output_, &scratch_}) {
      *array = {};
    }
  }

 private:
  void LoadWeights(const TowerOptions& o) {
    WeightUpload upload(type_, stream_);
    const auto product = [&](const HostTensor& weight, const HostTensor* bias,
                             int64_t cols = 0) -> Product {
      Product p;
      p.n = weight.rows;
      p.k = cols == 0 ? weight.cols : cols;
      p.weight = upload.Matrix(weight, cols);
      if (bias != nullptr) p.bias = upload.Matrix(*bias);
      return p;
    };
    samples_ = DeviceArray<float>(3 * 256);
    CHORD_CUDA_CHECK(
        cudaMemcpy(samples_.get(), o.samples, samples_.bytes(), cudaMemcpyHostToDevice));
    patch_embed_ = product(o.patch_embed, nullptr);
    for (int i = 0; i < o.depth; ++i) {
      const TowerBlockWeights& w = o.blocks[i];
      Block& block = blocks_.emplace_back();
      block.full_attention = w.full_attention;
      block.norm1 = upload.Matrix(w.norm1);
      block.norm2 = upload.Matrix(w.norm2);
      block.qkv = product(w.qkv, &w.qkv_bias);
      block.proj = product(w.proj, &w.proj_bias);
      block.gated.n = 2 * inner_;
      block.gated.k = o.width;
      block.gated.weight = upload.Interleave(w.gate, w.up, inner_);
      block.gated.bias = upload.Interleave(w.gate_bias, w.up_bias, inner_);
      block.down = product(w.down, &w.down_bias, inner_);
    }
    merger_norm_ = upload.Matrix(o.merger_norm);
    merger_in_ = product(o.merger_in, &o.merger_in_bias);
    merger_out_ = product(o.merger_out, &o.merger_out_bias);
  }

  int64_t OutputBytes() const {
    return rows_ / options_.cell * options_.out_width * static_cast<int64_t>(sizeof(Half));
  }

  // Memory for `rows` patches; all or nothing.
  void Reserve(int64_t rows) {
    if (rows <= reserved_) return;
    Release();
    try {
      const int64_t cells = rows / options_.cell, width = options_.width;
      patches_ = DeviceArray<Half>(rows * patch_values_);
      hidden_ = DeviceArray<Half>(rows * width);
      normed_ = DeviceArray<Half>(rows * width);
      qkv_ = DeviceArray<Half>(rows * 3 * width);
      gated_ = DeviceArray<Half>(rows * inner_);
      merged_ = DeviceArray<Half>(rows * width);
      output_ = DeviceArray<Half>(cells * options_.out_width);
      {
        const int64_t merged = options_.cell * width;
        scratch_ = DeviceArray<Half>(
            std::max({rows * 2 * inner_, cells * merged, cells * options_.out_width}));
      }
      staged_out_ = PinnedArray<Half>(cells * options_.out_width);
    } catch (...) {
      Release();
      throw;
    }
    reserved_ = rows;
  }

  static void AddTiles(const TowerSegment* segments, int count, int step,
                       std::vector<AttentionTile>* tiles) {
    for (int i = 0; i < count; ++i) {
      for (int32_t query = 0; query < segments[i].length; query += step) {
        tiles->push_back({segments[i].begin, segments[i].length, query, 0});
      }
    }
  }

  void UploadPlan(const TowerPlan& plan) {
    short_windows_ = true;
    for (int i = 0; i < plan.window_count; ++i) {
      short_windows_ = short_windows_ && plan.windows[i].length <= vision::kWindowRows;
    }
    std::vector<AttentionTile> windows, images;
    AddTiles(plan.windows, plan.window_count,
             short_windows_ ? vision::kWindowRows : vision::kFullTileRows, &windows);
    AddTiles(plan.images, plan.image_count, vision::kFullTileRows, &images);
    window_tiles_ = static_cast<int>(windows.size());
    image_tiles_ = static_cast<int>(images.size());
    std::vector<PatchPlace> places(plan.rows);
    for (int64_t r = 0; r < plan.rows; ++r) places[r] = {plan.pixel[r], plan.stride[r]};

    Packer packer;
    const int64_t angles = int64_t{plan.rope_side} * (options_.width / options_.heads / 4);
    const int64_t at_source = packer.Add(plan.source, plan.rows);
    const int64_t at_places = packer.Add(places.data(), plan.rows);
    const int64_t at_positions = packer.Add(plan.positions, 2 * plan.rows);
    const int64_t at_target = packer.Add(plan.target, plan.rows / options_.cell);
    const int64_t at_windows = packer.Add(windows.data(), window_tiles_);
    const int64_t at_images = packer.Add(images.data(), image_tiles_);
    const int64_t at_cos = packer.Add(plan.rope_cos, angles);
    const int64_t at_sin = packer.Add(plan.rope_sin, angles);
    const auto bytes = static_cast<int64_t>(packer.bytes().size());
    if (bytes > plan_.count()) {
      plan_ = {};
      plan_ = DeviceArray<std::byte>(bytes);
      staged_plan_ = {};
      staged_plan_ = PinnedArray<std::byte>(bytes);
    }
    std::memcpy(staged_plan_.get(), packer.bytes().data(), bytes);  // no call is under way
    CHORD_CUDA_CHECK(cudaMemcpyAsync(plan_.get(), staged_plan_.get(), bytes,
                                     cudaMemcpyHostToDevice, stream_.get()));
    source_ = At<int32_t>(at_source);
    places_ = At<PatchPlace>(at_places);
    target_ = At<int32_t>(at_target);
    windows_ = At<AttentionTile>(at_windows);
    images_ = At<AttentionTile>(at_images);
    rope_ = {At<short2>(at_positions), At<float>(at_cos), At<float>(at_sin)};
  }
  template <typename T>
  const T* At(int64_t offset) const {
    return reinterpret_cast<const T*>(plan_.get() + offset);
  }

  // Room for an input on the device and, pinned, on the host.
  void ReserveInput(int64_t bytes, bool pinned) {
    if (input_.count() < bytes) {
      input_ = {};
      input_ = DeviceArray<std::byte>(bytes);
    }
    if (pinned && staged_in_.count() < bytes) {
      staged_in_ = {};
      staged_in_ = PinnedArray<std::byte>(bytes);
    }
  }
  void UploadPatches(const float* patches) {
    const int64_t bytes = rows_ * patch_values_ * sizeof(float);
    ReserveInput(bytes, /*pinned=*/false);
    CHORD_CUDA_CHECK(
        cudaMemcpyAsync(input_.get(), patches, bytes, cudaMemcpyHostToDevice, stream_.get()));
    CHORD_CUDA_CHECK(vision::GatherPatches(type_, reinterpret_cast<const float*>(input_.get()),
                                           source_, rows_, patch_values_, patches_.get(), queue_));
  }
  void UploadPixels(const uint8_t* pixels, int64_t bytes) {
    if (bytes != rows_ * 3 * options_.patch_side * options_.patch_side) {
      throw Error(Code::kFailed, "pixels and plan disagree");
    }
    ReserveInput(bytes, /*pinned=*/true);
    std::memcpy(staged_in_.get(), pixels, bytes);
    CHORD_CUDA_CHECK(cudaMemcpyAsync(input_.get(), staged_in_.get(), bytes, cudaMemcpyHostToDevice,
                                     stream_.get()));
    CHORD_CUDA_CHECK(vision::MakePatches(type_, reinterpret_cast<const uint8_t*>(input_.get()),
                                         places_, samples_.get(), options_.patch_side,
                                         options_.temporal, rows_, patches_.get(), queue_));
  }

  void Multiply(const Product& product, Epilogue epilogue, const void* x, int64_t rows, void* out,
                const int32_t* target = nullptr) {
    GemmProblem problem;
    problem.type = type_;
    problem.epilogue = epilogue;
    problem.x = x;
    problem.weight = product.weight.get();
    problem.bias = product.bias.get();
    problem.out = out;
    problem.target = target;
    problem.rope = rope_;
    problem.rotated = 2 * options_.width;
    problem.m = rows;
    problem.n = product.n;
    problem.k = product.k;
    static const int mask = std::getenv("CHORD_OWN") ? std::atoi(std::getenv("CHORD_OWN")) : 255;
    if (sm90_ && (mask >> static_cast<int>(epilogue) & 1)) {
      CHORD_CUDA_CHECK(vision::Sm90Gemm(problem, queue_));
    } else {
      library_.Run(problem, scratch_.get(), queue_);
    }
  }
  void Norm(const DeviceArray<Half>& weight) {
    CHORD_CUDA_CHECK(vision::RmsNorm(type_, hidden_.get(), weight.get(), options_.norm_eps, rows_,
                                     options_.width, normed_.get(), queue_));
  }

  void Embed() { Multiply(patch_embed_, Epilogue::kBias, patches_.get(), rows_, hidden_.get()); }

  void RunBlock(const Block& block) {
    Norm(block.norm1);
    Multiply(block.qkv, rotates_ ? Epilogue::kBiasRope : Epilogue::kBias, normed_.get(), rows_,
             qkv_.get());
    Attend(block.full_attention);  // into normed_, which is no longer needed
    Multiply(block.proj, Epilogue::kBiasResidual, normed_.get(), rows_, hidden_.get());
    Norm(block.norm2);
    Multiply(block.gated, Epilogue::kBiasSwiGlu, normed_.get(), rows_, gated_.get());
    Multiply(block.down, Epilogue::kBiasResidual, gated_.get(), rows_, hidden_.get());
  }

  void Attend(bool whole_images) {
    const vision::AttentionShape shape{options_.heads, options_.width / options_.heads};
    if (!whole_images && short_windows_) {
      CHORD_CUDA_CHECK(vision::WindowAttention(type_, qkv_.get(), shape,
                                               rotates_ ? vision::RopeAngles{} : rope_, windows_,
                                               window_tiles_, normed_.get(), queue_));
      return;
    }
    const AttentionTile* const tiles = whole_images ? images_ : windows_;
    const int count = whole_images ? image_tiles_ : window_tiles_;
    if (!rotates_) {
      CHORD_CUDA_CHECK(vision::RotateInPlace(type_, qkv_.get(), rows_, shape, rope_, queue_));
    }
    if (sm90_ && shape.dim == vision::kSm90HeadDim) {
      CHORD_CUDA_CHECK(vision::SegmentAttentionSm90(type_, qkv_.get(), rows_, shape, tiles, count,
                                                    normed_.get(), queue_));
    } else {
      CHORD_CUDA_CHECK(vision::SegmentAttention(type_, qkv_.get(), shape, tiles, count,
                                                normed_.get(), queue_));
    }
  }

  void Merge() {
    Norm(merger_norm_);
    const int64_t cells = rows_ / options_.cell;
    Multiply(merger_in_, Epilogue::kBiasGelu, normed_.get(), cells, merged_.get());
    Multiply(merger_out_, Epilogue::kBias, merged_.get(), cells, output_.get(), target_);
  }

  TowerOptions options_;
  const HalfType type_;
  const int64_t patch_values_, inner_;
  const bool sm90_;
  const bool rotates_;  // the product that makes queries and keys rotates them
  const Stream stream_;
  const Queue queue_;
  vision::LibraryGemm library_;

  DeviceArray<float> samples_;
  Product patch_embed_, merger_in_, merger_out_;
  DeviceArray<Half> merger_norm_;
  std::vector<Block> blocks_;

  // The plan: one upload, and where its parts lie.
  int64_t rows_ = 0, reserved_ = 0;
  DeviceArray<std::byte> plan_;
  PinnedArray<std::byte> staged_plan_;
  const int32_t* source_ = nullptr;
  const int32_t* target_ = nullptr;
  const PatchPlace* places_ = nullptr;
  const AttentionTile* windows_ = nullptr;
  const AttentionTile* images_ = nullptr;
  int window_tiles_ = 0, image_tiles_ = 0;
  bool short_windows_ = true;
  vision::RopeAngles rope_;

  DeviceArray<std::byte> input_;
  PinnedArray<std::byte> staged_in_;
  PinnedArray<Half> staged_out_;
  DeviceArray<Half> patches_, hidden_, normed_, qkv_, gated_, merged_, output_, scratch_;
};

void CheckOptions(const TowerOptions& o) {
  const auto unless = [](bool good, const char* what) {
    if (!good) throw Error(Code::kUnsupported, "the vision kernels do not take %s", what);
  };
  unless(o.dtype == Dtype::kBFloat16 || o.dtype == Dtype::kFloat16, "this dtype");
  unless(o.heads > 0 && o.width % o.heads == 0 && vision::HasAttention(o.width / o.heads),
         "this head size");
  unless(o.width % 8 == 0 && o.out_width % 8 == 0 && o.cell > 0 && o.patch_side > 0 &&
             o.temporal > 0 && 3 * o.temporal * o.patch_side * o.patch_side % 8 == 0,
         "widths that are not multiples of 8");
  int major = 0;
  CHORD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, o.device));
  unless(major >= 8, "devices before compute capability 8.0");
}

}  // namespace

Status CreateTower(const TowerOptions& options, Tower** tower) {
  return Guarded([&] {
    const DeviceScope scope(options.device);
    CheckOptions(options);
    *tower = new TowerImpl(options);
  });
}

}  // namespace chord::cuda
