// The only file that knows Python. `loader/_core.pyi` documents what it offers.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "crc32c.h"
#include "decoder.h"
#include "error.h"
#include "example.h"
#include "kernels.h"
#include "order.h"
#include "philox.h"
#include "pipeline.h"
#include "render.h"
#include "tfrecord.h"

namespace py = pybind11;

namespace pretexture {
namespace {

Span AsSpan(const py::buffer_info& info) {
  if (info.ndim > 1 || (info.ndim == 1 && info.strides[0] != info.itemsize)) {
    throw py::value_error("expected contiguous bytes");
  }
  return {static_cast<const uint8_t*>(info.ptr), static_cast<size_t>(info.size * info.itemsize)};
}

// Hands a vector to NumPy without a copy.
template <typename T>
py::array_t<T> ToArray(std::vector<T> values, const std::vector<py::ssize_t>& shape) {
  auto* owner = new std::vector<T>(std::move(values));
  py::capsule base(owner, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(shape, owner->data(), base);
}

template <typename T>
py::array_t<T> ToArray(std::vector<T> values) {
  const auto size = static_cast<py::ssize_t>(values.size());
  return ToArray(std::move(values), {size});
}

Sampling ParseSampling(const py::handle& op) {
  const auto name = op.attr("method").cast<std::string>();
  Sampling sampling;
  sampling.method = name == "bilinear"  ? Method::kBilinear
                    : name == "nearest" ? Method::kNearest
                    : name == "bicubic" ? Method::kBicubic
                                        : Method::kArea;
  sampling.half_pixel = op.attr("coords").cast<std::string>() == "half_pixel";
  sampling.antialias = op.attr("antialias").cast<bool>();
  return sampling;
}

// From the dataclasses of loader/ops.py, which have been checked there.
std::vector<Op> ParseOps(const py::iterable& list) {
  std::vector<Op> ops;
  int cells = 1;
  for (const py::handle& op : list) {
    const auto name = op.attr("__class__").attr("__name__").cast<std::string>();
    const auto stream = op.attr("stream").cast<uint32_t>();
    const auto whole = [&](const char* field) { return op.attr(field).cast<int>(); };
    const auto flag = [&](const char* field) { return op.attr(field).cast<bool>(); };
    if (name == "Views") {
      ops.emplace_back(op::Views{stream, whole("n")});
    } else if (name == "Resize") {
      ops.emplace_back(op::Resize{stream, whole("height"), whole("width"), ParseSampling(op),
                                  flag("randomize")});
    } else if (name == "ResizeSmall") {
      ops.emplace_back(op::ResizeSmall{stream, whole("size")});
    } else if (name == "Crop") {
      ops.emplace_back(op::Crop{stream, whole("height"), whole("width"), flag("random")});
    } else if (name == "InceptionCrop") {
      ops.emplace_back(op::InceptionCrop{stream, op.attr("area").cast<std::array<double, 2>>(),
                                         op.attr("aspect").cast<std::array<double, 2>>(),
                                         flag("last_position")});
    } else if (name == "CentralFraction") {
      ops.emplace_back(op::CentralFraction{stream, op.attr("fraction").cast<double>()});
    } else if (name == "Flip") {
      ops.emplace_back(op::Flip{stream});
    } else if (name == "Gray") {
      ops.emplace_back(op::Gray{stream, op.attr("probability").cast<double>(), flag("wrap")});
    } else if (name == "Distort") {
      ops.emplace_back(op::Distort{stream, flag("fast")});
    } else if (name == "Patches") {
      cells = whole("n") * whole("n");
      ops.emplace_back(op::Patches{stream, whole("n"), whole("jitter"), flag("random")});
    } else if (name == "Jigsaw") {
      ops.emplace_back(op::Jigsaw{
          stream, op.attr("permutations").cast<std::vector<std::vector<int>>>(), flag("random")});
    } else if (name == "Pair") {
      ops.emplace_back(op::Pair{stream, cells, flag("random")});
    } else if (name == "Rotate") {
      ops.emplace_back(op::Rotate{stream});
    } else if (name == "Normalize") {
      ops.emplace_back(op::Normalize{stream, op.attr("scale").cast<std::array<float, 3>>(),
                                     op.attr("bias").cast<std::array<float, 3>>()});
    } else if (name == "Standardize") {
      ops.emplace_back(op::Standardize{stream});
    } else {
      throw py::value_error("the core has no operation " + name);
    }
  }
  return ops;
}

int Product(const std::vector<int>& dims) {
  int product = 1;
  for (const int d : dims) {
    if (d < 1 || __builtin_mul_overflow(product, d, &product)) {
      throw py::value_error("a record has too many views");
    }
  }
  return product;
}

// What all views have in common, and the shape of their array.
struct Shape {
  Format format;
  std::vector<int> views;
  std::vector<int> labels;

  Shape(const py::object& plan, const std::string& dtype, const std::string& layout) {
    views = plan.attr("views").cast<std::vector<int>>();
    labels = plan.attr("label_dims").cast<std::vector<int>>();
    format.height = plan.attr("height").cast<int>();
    format.width = plan.attr("width").cast<int>();
    format.views = Product(views);
    format.channels_first = layout == "NCHW";
    format.dtype = dtype == "float32"   ? DType::kFloat32
                   : dtype == "float16" ? DType::kFloat16
                                        : DType::kUint8;
  }

  py::dtype NumpyDType() const {
    return py::dtype(format.dtype == DType::kFloat32   ? "float32"
                     : format.dtype == DType::kFloat16 ? "float16"
                                                       : "uint8");
  }

  std::vector<py::ssize_t> Image(std::vector<py::ssize_t> dims) const {
    dims.insert(dims.end(), views.begin(), views.end());
    if (format.channels_first) dims.push_back(3);
    dims.push_back(format.height);
    dims.push_back(format.width);
    if (!format.channels_first) dims.push_back(3);
    return dims;
  }

  std::vector<py::ssize_t> Label(std::vector<py::ssize_t> dims) const {
    dims.insert(dims.end(), labels.begin(), labels.end());
    return dims;
  }
};

// A path as Python has it: bytes that are not UTF-8 become surrogates.
py::str PathText(const std::string& path) {
  PyObject* const text =
      PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<py::ssize_t>(path.size()));
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(text);
}

py::tuple ScanPaths(const std::vector<std::string>& paths, int threads) {
  std::vector<ShardIndex> shards;
  bool interrupted = false;
  {
    py::gil_scoped_release release;
    shards = ScanShards(paths, threads, [&] {
      const py::gil_scoped_acquire acquire;
      interrupted = interrupted || PyErr_CheckSignals() != 0;
      return !interrupted;
    });
  }
  if (interrupted) throw py::error_already_set();
  std::vector<uint64_t> offsets;
  std::vector<uint32_t> lengths;
  std::vector<uint64_t> counts;
  py::list faults;
  for (size_t i = 0; i < shards.size(); ++i) {
    ShardIndex& shard = shards[i];
    offsets.insert(offsets.end(), shard.offsets.begin(), shard.offsets.end());
    lengths.insert(lengths.end(), shard.lengths.begin(), shard.lengths.end());
    counts.push_back(shard.offsets.size());
    if (!shard.fault.empty()) {
      faults.append(
          py::make_tuple(PathText(paths[i]), shard.fault_offset, shard.fault, shard.unavailable));
    }
    shard = {};
  }
  return py::make_tuple(ToArray(std::move(offsets)), ToArray(std::move(lengths)),
                        ToArray(std::move(counts)), faults);
}

// As TensorFlow's operation of that name, for PNGs too.
py::array_t<uint8_t> DecodeJpeg(const py::buffer& data, const py::object& region, bool plain,
                                uint64_t max_pixels, bool fast_dct) {
  const py::buffer_info info = data.request();
  ImageDecoder decoder(DecodeOptions{max_pixels, nullptr, fast_dct});
  const ImageSize size = decoder.Open(AsSpan(info));
  Rect rect{0, 0, size.width, size.height};
  if (!region.is_none()) {
    const auto [top, left, height, width] = region.cast<std::tuple<int, int, int, int>>();
    if (top < 0 || left < 0 || height < 1 || width < 1 || height > size.height - top ||
        width > size.width - left) {
      throw py::value_error("the region does not lie within the image");
    }
    rect = {left, top, left + width, top + height};
  }
  Region decoded;
  {
    py::gil_scoped_release release;
    decoded = decoder.Decode(rect, plain);
  }
  py::array_t<uint8_t> result({rect.height(), rect.width(), 3});
  for (int y = 0; y < rect.height(); ++y) {
    std::copy_n(decoded.Row(rect.y0 + y), static_cast<size_t>(rect.width()) * 3,
                result.mutable_data(y, 0, 0));
  }
  return result;
}

// A single record's views, for the tests that hold the core against the reference.
class PyRenderer {
 public:
  PyRenderer(const py::object& plan, uint64_t seed, const std::string& dtype,
             const std::string& layout, const std::string& kernels)
      : shape_(plan, dtype, layout),
        plan_(ParseOps(plan.attr("ops"))),
        seed_(seed),
        renderer_(plan_, shape_.format, Find(kernels), false) {}

  py::tuple Views(const py::buffer& encoded, int32_t class_label, uint32_t record, uint32_t epoch) {
    const py::buffer_info info = encoded.request();
    py::array image(shape_.NumpyDType(), shape_.Image({}));
    std::vector<int32_t> labels;
    renderer_.Render(AsSpan(info), {seed_, epoch, record},
                     static_cast<uint8_t*>(image.mutable_data()), &labels);
    if (labels.empty()) labels.push_back(class_label);
    return py::make_tuple(image, ToArray(std::move(labels), shape_.Label({})));
  }

 private:
  static const Kernels& Find(const std::string& name) {
    if (name.empty()) return BestKernels();
    const Kernels* const found = KernelsByName(name.c_str());
    if (found == nullptr) throw py::value_error("no kernels " + name + " on this processor");
    return *found;
  }

  Shape shape_;
  Plan plan_;
  uint64_t seed_;
  Renderer renderer_;
};

// A Python function as `Records::open`; what it raises becomes Unavailable.
std::function<int(size_t)> Opener(py::function function) {
  return [function = std::move(function)](size_t shard) {
    const py::gil_scoped_acquire acquire;
    try {
      return function(shard).cast<int>();
    } catch (py::error_already_set& error) {
      // Not what(), which adds the type and a traceback.
      throw Unavailable(py::str(error.value()).cast<std::string>());
    }
  };
}

class PyPipeline {
 public:
  PyPipeline(const py::object& plan, const py::dict& records, const py::dict& config)
      : shape_(plan, config["dtype"].cast<std::string>(), config["layout"].cast<std::string>()),
        offsets_(records["offsets"].cast<py::array_t<uint64_t, py::array::c_style>>()),
        lengths_(records["lengths"].cast<py::array_t<uint32_t, py::array::c_style>>()),
        process_(getpid()) {
    Records r;
    r.paths = records["paths"].cast<std::vector<std::string>>();
    r.shard_begin = records["shard_begin"].cast<std::vector<uint64_t>>();
    r.offsets = offsets_.data();
    r.lengths = lengths_.data();
    r.verify_crc = records["verify_crc"].cast<bool>();
    r.image_key = records["image_key"].cast<std::string>();
    r.label.key = records["label_key"].cast<std::string>();
    r.label.offset = records["label_offset"].cast<int>();
    r.label.required = records["label_required"].cast<bool>();
    if (!records["open"].is_none()) r.open = Opener(records["open"].cast<py::function>());
    PipelineConfig c;
    c.ops = ParseOps(plan.attr("ops"));
    c.format = shape_.format;
    c.label_values = Product(shape_.labels);
    c.order.seed = config["seed"].cast<uint64_t>();
    c.order.records = static_cast<uint32_t>(lengths_.size());
    const auto shuffle = config["shuffle"].cast<std::string>();
    c.order.shuffle = shuffle == "global"   ? Shuffle::kGlobal
                      : shuffle == "window" ? Shuffle::kWindow
                                            : Shuffle::kNone;
    c.order.block = config["block"].cast<uint32_t>();
    c.order.blocks = config["blocks"].cast<uint32_t>();
    c.batch_size = config["batch_size"].cast<uint32_t>();
    c.shard = config["shard"].cast<uint32_t>();
    c.shards = config["shards"].cast<uint32_t>();
    c.drop_remainder = config["drop_remainder"].cast<bool>();
    c.run_ahead = config["run_ahead"].cast<bool>();
    c.skip_errors = config["skip_errors"].cast<bool>();
    c.threads = config["threads"].cast<int>();
    c.prefetch = config["prefetch"].cast<int>();
    c.max_pixels = config["max_pixels"].cast<uint64_t>();
    c.fast_dct = config["fast_dct"].cast<bool>();
    pipeline_ = std::make_unique<Pipeline>(std::move(r), std::move(c));
  }

  ~PyPipeline() {
    if (getpid() != process_) {
      // In a forked child the threads do not exist; they cannot be joined.
      pipeline_.release();
      return;
    }
    Close();
  }

  void Seek(uint32_t epoch, uint32_t batch) {
    CheckProcess();
    py::gil_scoped_release release;
    pipeline_->Seek(epoch, batch);
  }

  // (image, label, index, None), or (None, None, None, fault).
  py::tuple Next() {
    CheckProcess();
    const Inside inside(this);
    std::shared_ptr<Batch> batch;
    while (!batch) {
      {
        py::gil_scoped_release release;
        batch = pipeline_->Next(std::chrono::milliseconds(50));
      }
      if (!batch && PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    if (batch->fault_place != UINT32_MAX) {
      return py::make_tuple(py::none(), py::none(), py::none(), ToTuple(batch->fault));
    }
    const auto size = static_cast<py::ssize_t>(batch->size);
    auto* owner = new std::shared_ptr<uint8_t>(std::move(batch->image));
    py::capsule base(owner, [](void* p) { delete static_cast<std::shared_ptr<uint8_t>*>(p); });
    py::array image(shape_.NumpyDType(), shape_.Image({size}), owner->get(), base);
    return py::make_tuple(image, ToArray(std::move(batch->label), shape_.Label({size})),
                          ToArray(std::move(batch->index)), py::none());
  }

  py::dict GetStats() const {
    CheckProcess();
    const Stats s = pipeline_->GetStats();
    py::dict d;
    d["records"] = s.records;
    d["bytes"] = s.bytes;
    d["skipped"] = s.skipped;
    d["warnings"] = s.warnings;
    d["read_seconds"] = double(s.read) * 1e-9;
    d["decode_seconds"] = double(s.decode) * 1e-9;
    d["resample_seconds"] = double(s.resample) * 1e-9;
    d["color_seconds"] = double(s.color) * 1e-9;
    d["wait_seconds"] = double(s.waiting) * 1e-9;
    return d;
  }

  py::list TakeSkipped() {
    py::list list;
    if (getpid() != process_) return list;  // Its lock may be held by a thread of the parent.
    for (const RecordFault& fault : pipeline_->TakeSkipped()) list.append(ToTuple(fault));
    return list;
  }

  void Forget(size_t shard) {
    if (getpid() == process_) pipeline_->Forget(shard);
  }

  // Afterwards no other thread is in Next: it would ask for the GIL, which ends a thread in the
  // midst of this library's functions once the interpreter is being finalised.
  void Close() {
    if (getpid() != process_) return;
    py::gil_scoped_release release;
    pipeline_->Close();
    std::unique_lock<std::mutex> lock(inside_mutex_);
    left_.wait(lock, [&] { return inside_ == (Inside::here == this ? 1 : 0); });
  }

 private:
  // While a thread is in Next.
  class Inside {
   public:
    explicit Inside(PyPipeline* pipeline) : pipeline_(pipeline), before_(here) {
      const std::lock_guard<std::mutex> lock(pipeline_->inside_mutex_);
      ++pipeline_->inside_;
      here = pipeline;
    }
    ~Inside() {
      const std::lock_guard<std::mutex> lock(pipeline_->inside_mutex_);
      --pipeline_->inside_;
      here = before_;
      pipeline_->left_.notify_all();
    }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

    // The one whose Next this thread is in: a signal's handler may close it from there.
    static thread_local const PyPipeline* here;

   private:
    PyPipeline* const pipeline_;
    const PyPipeline* const before_;
  };

  static py::tuple ToTuple(const RecordFault& fault) {
    return py::make_tuple(PathText(fault.path), fault.offset, fault.record, fault.reason);
  }

  void CheckProcess() const {
    if (getpid() != process_) {
      throw std::runtime_error(
          "this Loader was made before a fork and its threads are in the parent; make it in the "
          "process that uses it");
    }
  }

  Shape shape_;
  // The index arrays, which the pipeline reads and does not own.
  py::array_t<uint64_t, py::array::c_style> offsets_;
  py::array_t<uint32_t, py::array::c_style> lengths_;
  pid_t process_;
  std::unique_ptr<Pipeline> pipeline_;
  std::mutex inside_mutex_;
  std::condition_variable left_;
  int inside_ = 0;  // threads in Next
};

thread_local const PyPipeline* PyPipeline::Inside::here = nullptr;

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of pretexture.loader.";
  py::register_exception<Error>(m, "CoreError", PyExc_ValueError);
  py::register_exception<Unavailable>(m, "CoreUnavailable", PyExc_OSError);

  m.def("crc32c", [](const py::buffer& data) {
    const py::buffer_info info = data.request();
    const Span span = AsSpan(info);
    return Crc32c(span.data, span.size);
  });
  m.def("crc32c_portable", [](const py::buffer& data) {
    const py::buffer_info info = data.request();
    const Span span = AsSpan(info);
    return Crc32cPortable(span.data, span.size);
  });
  m.def("masked_crc32c", [](const py::buffer& data) {
    const py::buffer_info info = data.request();
    const Span span = AsSpan(info);
    return MaskCrc(Crc32c(span.data, span.size));
  });
  m.def("philox", [](uint64_t key, const std::array<uint32_t, 4>& counter) {
    const Words w = Philox(key, counter);
    return py::make_tuple(w[0], w[1], w[2], w[3]);
  });
  m.def("record_at", [](uint64_t seed, uint32_t epoch, uint32_t records, const std::string& shuffle,
                        uint32_t block, uint32_t blocks, uint32_t position) {
    Order order;
    order.seed = seed;
    order.records = records;
    order.shuffle = shuffle == "global"   ? Shuffle::kGlobal
                    : shuffle == "window" ? Shuffle::kWindow
                                          : Shuffle::kNone;
    order.block = block;
    order.blocks = blocks;
    if (position >= records) throw py::index_error("position beyond the epoch");
    return order.RecordAt(epoch, position);
  });
  m.def("close_oldest_file", &ShardFiles::CloseOldest);
  m.def("scan_shards", &ScanPaths, py::arg("paths"), py::arg("threads"));
  m.def(
      "read_record",
      [](const std::string& path, uint64_t offset, uint32_t length, bool verify_crc) {
        Scratch buffer;
        const uint8_t* data = nullptr;
        {
          py::gil_scoped_release release;
          data = ReadRecord(File(path), offset, length, verify_crc, &buffer);
        }
        return py::bytes(reinterpret_cast<const char*>(data), length);
      },
      py::arg("path"), py::arg("offset"), py::arg("length"), py::arg("verify_crc"));
  m.def("feature_names", [](const py::buffer& data) {
    const py::buffer_info info = data.request();
    return FeatureNames(AsSpan(info));
  });
  m.def(
      "class_label",
      [](const py::buffer& data, const std::string& image_key, const std::string& label_key,
         int label_offset, bool required) {
        const py::buffer_info info = data.request();
        const Span span = AsSpan(info);
        const Example example = ParseExample(span, image_key, label_key);
        return ClassLabel(span, example, {label_key, label_offset, required});
      },
      py::arg("data"), py::arg("image_key"), py::arg("label_key"), py::arg("label_offset"),
      py::arg("required"));
  m.def(
      "parse_example",
      [](const py::buffer& data, const std::string& image_key, const std::string& label_key) {
        const py::buffer_info info = data.request();
        const Example example = ParseExample(AsSpan(info), image_key, label_key);
        py::object label = py::none();
        if (example.label) label = py::int_(*example.label);
        return py::make_tuple(
            py::bytes(reinterpret_cast<const char*>(example.image.data), example.image.size),
            label);
      },
      py::arg("data"), py::arg("image_key"), py::arg("label_key"));
  m.attr("MAX_PIXELS") = DecodeOptions().max_pixels;
  m.def("decode_jpeg", &DecodeJpeg, py::arg("data"), py::arg("region") = py::none(),
        py::arg("plain") = false, py::arg("max_pixels") = DecodeOptions().max_pixels,
        py::arg("fast_dct") = false);
  m.def(
      "image_size",
      [](const py::buffer& data, uint64_t max_pixels) {
        const py::buffer_info info = data.request();
        const ImageSize size = ImageDecoder(DecodeOptions{max_pixels}).Open(AsSpan(info));
        return py::make_tuple(size.height, size.width);
      },
      py::arg("data"), py::arg("max_pixels") = DecodeOptions().max_pixels);
  m.def("kernels", [] {
    py::list names;
    for (const char* name : {"avx512", "avx2", "baseline"}) {
      if (KernelsByName(name) != nullptr) names.append(name);
    }
    return names;
  });

  py::class_<PyRenderer>(m, "Renderer")
      .def(py::init<const py::object&, uint64_t, const std::string&, const std::string&,
                    const std::string&>(),
           py::arg("plan"), py::kw_only(), py::arg("seed"), py::arg("dtype"), py::arg("layout"),
           py::arg("kernels") = "")
      .def("views", &PyRenderer::Views, py::arg("encoded"), py::arg("class_label"),
           py::arg("record"), py::arg("epoch"));

  py::class_<PyPipeline>(m, "Pipeline")
      .def(py::init<const py::object&, const py::dict&, const py::dict&>(), py::arg("plan"),
           py::arg("records"), py::arg("config"))
      .def("seek", &PyPipeline::Seek, py::arg("epoch"), py::arg("batch"))
      .def("next", &PyPipeline::Next)
      .def("stats", &PyPipeline::GetStats)
      .def("take_skipped", &PyPipeline::TakeSkipped)
      .def("forget", &PyPipeline::Forget, py::arg("shard"))
      .def("close", &PyPipeline::Close);
}

}  // namespace pretexture
