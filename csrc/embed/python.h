// Python's C API by name, found in the process or in a libpython loaded at run time: nothing here is linked to it.
#pragma once
#include <string>

namespace engine::embed {

struct Object;  // a PyObject

// Entries used, all of the stable ABI. None is called without `Held`, but for the first three.
struct Python {
    int (*is_initialized)();
    void (*initialize)(int);
    void* (*save_thread)();
    int (*ensure)();
    void (*release)(int);
    Object* (*import)(const char*);
    Object* (*attribute)(Object*, const char*);
    Object* (*call)(Object*, const char*, ...);
    Object* (*tuple)(long);
    int (*tuple_set)(Object*, long, Object*);
    Object* (*from_long)(long long);
    long (*to_long)(Object*);
    const char* (*to_text)(Object*, long*);
    int (*run)(const char*);
    void (*drop)(Object*);
    void (*fetch)(Object**, Object**, Object**);
    Object* (*str)(Object*);
};

// The interpreter, started where there was none; null with `why` where that cannot be. The same one for the whole process.
const Python* python(std::string& why);

// The pending Python error as text, taken away; "" where there is none. The lock is held.
std::string taken(const Python& py);

// Holds the interpreter lock.
class Held {
public:
    explicit Held(const Python& py) : py_(py), state_(py.ensure()) {}
    ~Held() { py_.release(state_); }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

private:
    const Python& py_;
    int state_;
};

}  // namespace engine::embed
