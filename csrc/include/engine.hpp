// engine.hpp: engine.h for C++11 and later. An Engine closes itself; a call that fails throws engine::Error.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine.h"

namespace engine {

class Error : public std::runtime_error {
public:
    Error(int code, const std::string& text) : std::runtime_error(text), code_(code) {}
    int code() const noexcept { return code_; }

private:
    int code_;
};

template <class T> struct Dtype;
template <> struct Dtype<float> { static constexpr int code = ENGINE_FLOAT32; };
template <> struct Dtype<double> { static constexpr int code = ENGINE_FLOAT64; };
template <> struct Dtype<std::int8_t> { static constexpr int code = ENGINE_INT8; };
template <> struct Dtype<std::uint8_t> { static constexpr int code = ENGINE_UINT8; };
template <> struct Dtype<std::int16_t> { static constexpr int code = ENGINE_INT16; };
template <> struct Dtype<std::uint16_t> { static constexpr int code = ENGINE_UINT16; };
template <> struct Dtype<std::int32_t> { static constexpr int code = ENGINE_INT32; };
template <> struct Dtype<std::uint32_t> { static constexpr int code = ENGINE_UINT32; };
template <> struct Dtype<std::int64_t> { static constexpr int code = ENGINE_INT64; };
template <> struct Dtype<std::uint64_t> { static constexpr int code = ENGINE_UINT64; };

class Engine {
public:
    // Collective. `comm`: ENGINE_COMM(comm) or ENGINE_ALONE.
    explicit Engine(int comm, const std::string& toml = "") { must(engine_open(comm, toml.c_str(), &handle_)); }
    ~Engine() { engine_close(handle_); }
    Engine(Engine&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
    Engine& operator=(Engine&& other) noexcept {
        if (this != &other) {
            engine_close(handle_);
            handle_ = other.handle_;
            other.handle_ = nullptr;
        }
        return *this;
    }
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // Name an array, which is not copied. `strides` in elements, none = C order.
    template <class T>
    void publish(const char* name, const T* data, std::initializer_list<std::int64_t> shape,
                 std::initializer_list<std::int64_t> strides = {}, int device = ENGINE_CPU) {
        std::int64_t bytes[ENGINE_MAX_DIMS];
        if (strides.size() && strides.size() != shape.size()) throw Error(ENGINE_USAGE, "publish: expected a stride for every axis");
        if (shape.size() > ENGINE_MAX_DIMS) throw Error(ENGINE_USAGE, "publish: expected a shape of 0 to 8 axes");
        std::size_t axis = 0;
        for (const std::int64_t stride : strides) bytes[axis++] = stride * static_cast<std::int64_t>(sizeof(T));
        must(engine_publish(handle_, name, data, static_cast<int>(shape.size()), shape.begin(), strides.size() ? bytes : nullptr,
                            Dtype<T>::code, device));
    }

    // Name all windows of (2 reach + 1)^2 values of a field of ny rows of nx: one row of features around every inner point.
    template <class T>
    void windows(const char* name, const T* field, std::int64_t ny, std::int64_t nx, std::int64_t reach = 1) {
        const std::int64_t wide = 2 * reach + 1;
        publish(name, field, {ny - 2 * reach, nx - 2 * reach, wide, wide}, {nx, 1, nx, 1});
    }

    void learn(const char* x, const char* y) { must(engine_learn(handle_, x, y)); }
    void predict(const char* x, const char* out) { must(engine_predict(handle_, x, out)); }
    bool test() {
        int done = 0;
        must(engine_test(handle_, &done));
        return done != 0;
    }
    void wait() { must(engine_wait(handle_)); }
    void checkpoint(const std::string& directory = "") {
        must(engine_checkpoint(handle_, directory.empty() ? nullptr : directory.c_str()));
    }
    std::string info() {
        std::size_t size = 0;
        must(engine_info(handle_, nullptr, &size));
        std::vector<char> text(size + 256);  // figures may grow by some digits
        size = text.size();
        must(engine_info(handle_, text.data(), &size));
        return text.data();
    }
    // Collective. Only an explicit close tells what went wrong.
    void close() {
        engine_t* handle = handle_;
        handle_ = nullptr;
        const int code = engine_close(handle);
        if (code != ENGINE_OK) throw Error(code, engine_error(nullptr));
    }
    engine_t* handle() const noexcept { return handle_; }

private:
    void must(int code) const {
        if (code != ENGINE_OK) throw Error(code, engine_error(handle_));
    }
    engine_t* handle_ = nullptr;
};

}  // namespace engine
