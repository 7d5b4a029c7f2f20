// The verbs of engine.h over the Python class engine.embed.Engine: each call is one cached callable that returns a code.
#include "engine.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "embed/failure.h"
#include "embed/python.h"

using engine::embed::Held;
using engine::embed::last_error;
using engine::embed::Object;
using engine::embed::Python;
using engine::embed::taken;

namespace {

enum Verb : int { publish, learn, predict, test, wait, checkpoint, info, message, close, verbs };
constexpr const char* names[verbs] = {"publish", "learn", "predict", "test", "wait", "checkpoint", "info", "message", "close"};

struct Published {  // what was last_error() published under a name, so that the same again is free
    const void* data = nullptr;
    std::vector<int64_t> shape, strides;
    int dtype = 0, device = 0;
};

std::mutex gate;
std::vector<const engine_t*> alive;

int fail(std::string& text, int code, const char* said) {
    text = said;
    return code;
}

}  // namespace

std::string& engine::embed::last_error() {
    thread_local std::string text;
    return text;
}

struct engine_handle {
    const Python* py = nullptr;
    Object* self = nullptr;
    Object* call[verbs] = {};
    std::map<std::string, Published> arrays;
    std::string error;
};

namespace {

bool known(const engine_t* e) {
    const std::lock_guard<std::mutex> lock(gate);
    return std::find(alive.begin(), alive.end(), e) != alive.end();
}

// The code of a call's result, which is dropped; the message is fetched where it is not 0.
int code_of(engine_t* e, Object* result) {
    const Python& py = *e->py;
    if (!result) {
        e->error = "a call into Python failed: " + taken(py);
        return ENGINE_FAILED;
    }
    const long code = py.to_long(result);
    py.drop(result);
    if (code == ENGINE_OK) return ENGINE_OK;
    Object* text = py.call(e->call[message], nullptr);
    const char* said = text ? py.to_text(text, nullptr) : nullptr;
    e->error = said ? said : "unknown error";
    if (text) py.drop(text);
    if (!said || code < 0) e->error += ": " + taken(py);
    return code < 0 ? ENGINE_FAILED : static_cast<int>(code);
}

// Every verb: a live engine, memory enough, and no exception out of the library.
template <class F>
int verb(engine_t* e, F&& act) {
    if (!e) return fail(last_error(), ENGINE_USAGE, "engine is NULL\n  fix: open it first, and look at the code that engine_open returned");
    if (!known(e)) return fail(last_error(), ENGINE_USAGE, "this engine is closed, or was never opened\n  fix: call engine_open");
    try {
        return act(*e->py);
    } catch (const std::bad_alloc&) {
        return fail(e->error, ENGINE_FAILED, "out of memory");
    }
}

int named(engine_t* e, const char* what) {
    e->error = std::string(what) + " is NULL\n  fix: give the name under which the array was published";
    return ENGINE_USAGE;
}

Object* tuple_of(const Python& py, const int64_t* values, int count) {
    Object* found = py.tuple(count);
    for (int i = 0; found && i < count; ++i) py.tuple_set(found, i, py.from_long(values[i]));
    return found;
}

void drop_all(engine_t* e) {
    for (Object* each : e->call)
        if (each) e->py->drop(each);
    if (e->self) e->py->drop(e->self);
}

// Makes the Python half; the reason why not is the last error of this thread.
int make(engine_t* e, int comm, const char* toml) {
    const Python& py = *e->py;
    Held held(py);
    Object* module = py.import("engine.embed");
    Object* opened = module ? py.attribute(module, "opened") : nullptr;
    Object* pair = opened ? py.call(opened, "iz", comm, toml) : nullptr;  // (engine or None, code, message)
    if (module) py.drop(module);
    if (opened) py.drop(opened);
    if (!pair) {
        last_error() = "the package engine cannot be imported: " + taken(py) +
            "\n  fix: eval \"$(python -m engine embed --env)\", with the python that has the engine installed";
        return ENGINE_UNAVAILABLE;
    }
    Object* code = py.attribute(pair, "code");
    Object* text = py.attribute(pair, "text");
    const long found = code ? py.to_long(code) : long{ENGINE_FAILED};
    const char* said = text ? py.to_text(text, nullptr) : nullptr;
    last_error() = said ? said : "";
    if (code) py.drop(code);
    if (text) py.drop(text);
    if (found == ENGINE_OK) {
        e->self = pair;
        bool all = true;
        for (int i = 0; i < verbs; ++i) all = (e->call[i] = py.attribute(pair, names[i])) && all;
        if (all) return ENGINE_OK;
        drop_all(e);
        taken(py);
        return fail(last_error(), ENGINE_FAILED, "the package engine is of another version than libengine.so");
    }
    py.drop(pair);
    taken(py);
    return static_cast<int>(found);
}

}  // namespace

extern "C" {

int engine_open(int comm, const char* toml, engine_t** out) {
    if (!out) return fail(last_error(), ENGINE_USAGE, "engine_open: expected where to put the engine, found NULL");
    *out = nullptr;
    try {
        const Python* py = engine::embed::python(last_error());
        if (!py) return ENGINE_UNAVAILABLE;
        auto* made = new engine_t;
        made->py = py;
        const int code = make(made, comm, toml);
        if (code != ENGINE_OK) {
            delete made;
            return code;
        }
        const std::lock_guard<std::mutex> lock(gate);
        alive.push_back(made);
        *out = made;
        return ENGINE_OK;
    } catch (const std::bad_alloc&) {
        return fail(last_error(), ENGINE_FAILED, "out of memory");
    }
}

int engine_publish(engine_t* e, const char* name, const void* data, int ndim, const int64_t* shape, const int64_t* strides, int dtype,
                   int device) {
    return verb(e, [&](const Python& py) {
        if (!name || !*name) return named(e, "publish: the name");
        if (ndim < 0 || ndim > ENGINE_MAX_DIMS || (ndim && !shape))
            return fail(e->error, ENGINE_USAGE, "publish: expected a shape of 0 to 8 axes");
        Published& old = e->arrays[name];
        const auto n = static_cast<std::size_t>(ndim), s = strides ? n : 0;
        const bool same = old.data == data && data && old.dtype == dtype && old.device == device && old.shape.size() == n &&
            old.strides.size() == s && std::equal(shape, shape + n, old.shape.begin()) &&
            (!s || std::equal(strides, strides + s, old.strides.begin()));
        if (same) return static_cast<int>(ENGINE_OK);
        old.data = nullptr;
        Held held(py);
        Object* sizes = tuple_of(py, shape, ndim);
        Object* steps = tuple_of(py, strides, static_cast<int>(s));
        const int code = code_of(e, py.call(e->call[publish], "sKOOiii", name, reinterpret_cast<unsigned long long>(data), sizes, steps,
                                            strides != nullptr, dtype, device));
        py.drop(sizes);
        py.drop(steps);
        if (code != ENGINE_OK) return code;
        old.shape.assign(shape, shape + n);
        old.strides.assign(strides, strides + s);
        old.dtype = dtype, old.device = device, old.data = data;
        return code;
    });
}

int engine_learn(engine_t* e, const char* x, const char* y) {
    return verb(e, [&](const Python& py) {
        Held held(py);
        return code_of(e, py.call(e->call[learn], "zz", x, y));  // a name that is NULL is told to every rank
    });
}

int engine_predict(engine_t* e, const char* x, const char* out) {
    return verb(e, [&](const Python& py) {
        if (!x || !out) return named(e, x ? "predict: the output" : "predict: x");
        Held held(py);
        return code_of(e, py.call(e->call[predict], "ss", x, out));
    });
}

int engine_test(engine_t* e, int* done) {
    return verb(e, [&](const Python& py) {
        if (!done) return fail(e->error, ENGINE_USAGE, "test: expected where to put the answer, found NULL");
        *done = 0;
        Held held(py);
        Object* result = py.call(e->call[test], nullptr);  // -1: not yet
        if (result && py.to_long(result) == -1) {
            py.drop(result);
            return static_cast<int>(ENGINE_OK);
        }
        const int code = code_of(e, result);
        *done = code == ENGINE_OK;
        return code;
    });
}

int engine_wait(engine_t* e) {
    return verb(e, [&](const Python& py) {
        Held held(py);
        return code_of(e, py.call(e->call[wait], nullptr));
    });
}

int engine_checkpoint(engine_t* e, const char* directory) {
    return verb(e, [&](const Python& py) {
        Held held(py);
        return code_of(e, py.call(e->call[checkpoint], "z", directory));
    });
}

int engine_info(engine_t* e, char* json, size_t* size) {
    return verb(e, [&](const Python& py) {
        if (!size) return fail(e->error, ENGINE_USAGE, "info: expected where the size is, found NULL");
        Held held(py);
        Object* text = py.call(e->call[info], nullptr);
        long length = 0;
        const char* said = text ? py.to_text(text, &length) : nullptr;
        int code = ENGINE_OK;
        if (!said) {
            e->error = "info: a call into Python failed: " + taken(py);
            code = ENGINE_FAILED;
        } else {
            const std::size_t need = static_cast<std::size_t>(length) + 1;
            if (json && *size >= need) std::memcpy(json, said, need);
            else if (json) code = fail(e->error, ENGINE_USAGE, "info: the buffer is too small; the size needed was put into *size");
            *size = need;
        }
        if (text) py.drop(text);
        return code;
    });
}

const char* engine_error(const engine_t* e) {
    return e && known(e) ? e->error.c_str() : last_error().c_str();
}

int engine_close(engine_t* e) {
    if (!e) return ENGINE_OK;
    return verb(e, [&](const Python& py) {
        {
            const std::lock_guard<std::mutex> lock(gate);
            alive.erase(std::find(alive.begin(), alive.end(), e));
        }
        int code;
        {
            Held held(py);
            code = code_of(e, py.call(e->call[close], nullptr));
            drop_all(e);
        }
        last_error() = e->error;
        delete e;
        return code;
    });
}

int engine_abi(void) { return ENGINE_ABI; }

}  // extern "C"
