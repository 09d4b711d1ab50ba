/*
 * A stand-in for NVIDIA's driver library, so that pipelines over CUDA memory
 * run on a machine without a GPU. "Device memory" is ordinary host memory. What
 * is asked of a stream is done when somebody waits for it, no earlier; other
 * calls are finished when they return. Kernels do not load or run.
 *
 *   cc -std=c11 -O1 -Wall -Wextra -shared -fPIC -Wl,-soname,libcuda.so.1 \
 *      cuda_driver.c -o libcuda.so.1
 *   ln -s libcuda.so.1 libnvcuvid.so.1
 *
 * The second name: GStreamer's nvcodec plugin registers cudaupload and
 * cudadownload only where a codec library opens too. See the last stubs.
 */
#define _GNU_SOURCE /* the recursive mutex */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int CUresult;
typedef int CUdevice;
typedef uintptr_t CUdeviceptr;

#define ERRORS(X)                                                                        \
    X(CUDA_SUCCESS, 0) X(CUDA_ERROR_INVALID_VALUE, 1) X(CUDA_ERROR_OUT_OF_MEMORY, 2)     \
    X(CUDA_ERROR_NOT_INITIALIZED, 3) X(CUDA_ERROR_INVALID_DEVICE, 101)                   \
    X(CUDA_ERROR_INVALID_CONTEXT, 201) X(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, 217)        \
    X(CUDA_ERROR_INVALID_HANDLE, 400) X(CUDA_ERROR_CONTEXT_IS_DESTROYED, 709)            \
    X(CUDA_ERROR_LAUNCH_FAILED, 719) X(CUDA_ERROR_NOT_SUPPORTED, 801)
#define ENUMERATOR(name, value) name = value,
enum { ERRORS(ENUMERATOR) };
enum { MEMORY_HOST = 1, MEMORY_DEVICE = 2, MEMORY_ARRAY = 3, MEMORY_UNIFIED = 4 };

#define ALIGNMENT ((size_t)256) /* of an allocation's start and of a pitch */
#define DEVICE_BYTES ((size_t)1 << 34)
#define STACK_DEPTH 64

/* Most calls have two names: the plain one was the 32-bit ABI of CUDA 3, and
 * its headers now rename it to _v2. Here both are the _v2 call. */
#define ALIAS(name, target) extern __typeof__(target) name __attribute__((alias(#target)))

/* Contexts, streams and events carry no state: what counts is whether a
 * handle is live and of the right kind. */
enum kind { CONTEXT, STREAM, EVENT, KINDS };
struct object {
    enum kind kind;
    struct object *next;
};
typedef struct object *CUcontext, *CUstream, *CUevent;

struct allocation {
    char *start, *map;
    size_t size, map_size;
    bool on_device;
    CUcontext context;
    struct allocation *next;
};

static bool initialized;
static struct object *objects;
static struct allocation *allocations;
static CUcontext primary; /* while it is retained */
static unsigned primary_refs;
static unsigned long live[KINDS], copies[2][2];
static bool lost; /* the device, for a while */

static _Thread_local CUcontext stack[STACK_DEPTH];
static _Thread_local int depth;

/* LOCKED holds the lock, which may nest, to the end of the enclosing block. */
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static void unlock(int *unused) { (void)unused, pthread_mutex_unlock(&lock); }
#define LOCKED __attribute__((cleanup(unlock))) int locked = pthread_mutex_lock(&lock)

#define TRY(call)             \
    do {                      \
        CUresult r_ = (call); \
        if (r_)               \
            return r_;        \
    } while (0)

/* ---- what a test asks ---- */

static struct allocation *find_allocation(uintptr_t p)
{
    struct allocation *a = allocations;
    while (a && p - (uintptr_t)a->start >= a->size) /* wraps where p lies before */
        a = a->next;
    return a;
}

unsigned long fake_cuda_allocations(void)
{
    LOCKED;
    unsigned long n = 0;
    for (struct allocation *a = allocations; a; a = a->next)
        n += a->on_device;
    return n;
}

int fake_cuda_is_device(const void *p)
{
    LOCKED;
    struct allocation *a = find_allocation((uintptr_t)p);
    return a && a->on_device;
}

unsigned long fake_cuda_copies(int from_device, int to_device) { LOCKED; return copies[!!from_device][!!to_device]; }
void fake_cuda_lose_device(int now) { LOCKED; lost = now; }
unsigned long fake_cuda_contexts(void) { LOCKED; return live[CONTEXT]; }
unsigned long fake_cuda_streams(void) { LOCKED; return live[STREAM]; }
unsigned long fake_cuda_events(void) { LOCKED; return live[EVENT]; }

/* ---- driver, errors, device ---- */

CUresult cuInit(unsigned flags)
{
    LOCKED;
    initialized |= flags == 0;
    return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) { *version = 12040; return CUDA_SUCCESS; }

CUresult cuGetErrorName(CUresult code, const char **name)
{
#define CASE(error, value) case value: *name = #error; return CUDA_SUCCESS;
    switch (code) { ERRORS(CASE) }
    *name = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}
ALIAS(cuGetErrorString, cuGetErrorName);

static CUresult check_device(CUdevice device)
{
    LOCKED;
    if (!initialized)
        return CUDA_ERROR_NOT_INITIALIZED;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetCount(int *n) { *n = 1; return check_device(0); }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return check_device(ordinal); }

CUresult cuDeviceGetName(char *name, int size, CUdevice device)
{
    snprintf(name, size, "Fake CUDA device");
    return check_device(device);
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    switch (attribute) {
    case 1: *value = 1024; break;                 /* threads a block */
    case 10: *value = 32; break;                  /* warp */
    case 11: *value = INT32_MAX; break;           /* pitch */
    case 14: case 51: *value = ALIGNMENT; break;  /* texture alignment, of its pitch too */
    case 16: case 41: *value = 1; break;          /* processors, unified addressing */
    case 75: *value = 9; break;                   /* compute capability, major */
    default: *value = 0;                          /* its minor, and what is not there */
    }
    return check_device(device);
}

/* A device is not its own peer. */
CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
    *can = 0;
    TRY(check_device(device));
    return check_device(peer);
}
CUresult cuCtxEnablePeerAccess(void) { return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED; }

/* ---- objects and contexts ---- */

static struct object **find(const void *handle, enum kind kind)
{
    struct object **at = &objects;
    while (*at && (*at != handle || (*at)->kind != kind))
        at = &(*at)->next;
    return *at ? at : NULL;
}

static CUresult create(struct object **out, enum kind kind)
{
    LOCKED;
    struct object *o = malloc(sizeof *o);
    if (!o)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *o = (struct object){kind, objects};
    live[kind]++;
    *out = objects = o;
    return CUDA_SUCCESS;
}

static CUresult check(const void *handle, enum kind kind)
{
    LOCKED;
    if (kind == STREAM && (uintptr_t)handle <= 2) /* the default, legacy and per-thread streams */
        return CUDA_SUCCESS;
    return find(handle, kind) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult destroy(void *handle, enum kind kind)
{
    LOCKED;
    struct object **at = find(handle, kind);
    if (!at)
        return CUDA_ERROR_INVALID_HANDLE;
    *at = (*at)->next;
    live[kind]--;
    free(handle);
    return CUDA_SUCCESS;
}

/* Whether the thread's current context is one to work in. */
static CUresult check_context(void)
{
    LOCKED;
    if (depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    return find(stack[depth - 1], CONTEXT) ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    LOCKED;
    if (!find(context, CONTEXT) || depth == STACK_DEPTH)
        return CUDA_ERROR_INVALID_CONTEXT;
    stack[depth++] = context;
    return CUDA_SUCCESS;
}
ALIAS(cuCtxPushCurrent, cuCtxPushCurrent_v2);

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    if (depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    depth--;
    if (context)
        *context = stack[depth];
    return CUDA_SUCCESS;
}
ALIAS(cuCtxPopCurrent, cuCtxPopCurrent_v2);

CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device)
{
    (void)flags;
    TRY(check_device(device));
    TRY(create(context, CONTEXT));
    return cuCtxPushCurrent_v2(*context);
}
ALIAS(cuCtxCreate, cuCtxCreate_v2);

static CUresult finish(CUstream stream);

CUresult cuCtxSynchronize(void)
{
    LOCKED;
    TRY(check_context());
    return lost ? CUDA_ERROR_LAUNCH_FAILED : finish(NULL);
}

static void free_allocation(struct allocation **at)
{
    struct allocation *a = *at;
    *at = a->next;
    munmap(a->map, a->map_size);
    free(a);
}

static CUresult destroy_context(CUcontext context)
{
    for (struct allocation **at = &allocations; *at;) /* its memory goes with it */
        if ((*at)->context == context)
            free_allocation(at);
        else
            at = &(*at)->next;
    return destroy(context, CONTEXT);
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    LOCKED;
    if (context == primary || !find(context, CONTEXT))
        return CUDA_ERROR_INVALID_CONTEXT;
    if (depth && stack[depth - 1] == context)
        depth--;
    return destroy_context(context);
}
ALIAS(cuCtxDestroy, cuCtxDestroy_v2);

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    LOCKED;
    TRY(check_device(device));
    if (!primary)
        TRY(create(&primary, CONTEXT));
    primary_refs++;
    *context = primary;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    LOCKED;
    TRY(check_device(device));
    if (!primary)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (--primary_refs == 0) {
        destroy_context(primary);
        primary = NULL;
    }
    return CUDA_SUCCESS;
}
ALIAS(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2);

/* ---- memory ---- */

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* A mapping of its own, which ends (but for the alignment of the start)
 * against a page that may not be touched: an overrun crashes there. */
static CUresult allocate(uintptr_t *out, size_t size, bool on_device)
{
    LOCKED;
    TRY(check_context());
    if (size == 0 || size > DEVICE_BYTES)
        return size ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
    size_t page = sysconf(_SC_PAGESIZE), length = round_up(size, ALIGNMENT);
    size_t map_size = round_up(length, page) + page;
    char *map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct allocation *a = malloc(sizeof *a);
    if (map == MAP_FAILED || !a)
        abort();
    char *guard = map + map_size - page;
    if (mprotect(guard, page, PROT_NONE))
        abort();
    *a = (struct allocation){guard - length, map, size, map_size, on_device, stack[depth - 1], allocations};
    allocations = a;
    memset(a->start, 0xCD, size); /* new memory is not zero on a GPU either */
    *out = (uintptr_t)a->start;
    return CUDA_SUCCESS;
}

static CUresult release(uintptr_t p, bool on_device)
{
    LOCKED;
    TRY(check_context());
    struct allocation **at = &allocations;
    while (*at && ((uintptr_t)(*at)->start != p || (*at)->on_device != on_device))
        at = &(*at)->next;
    if (!*at)
        return CUDA_ERROR_INVALID_VALUE;
    free_allocation(at);
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t size) { return allocate(p, size, true); }
CUresult cuMemFree_v2(CUdeviceptr p) { return release(p, true); }
CUresult cuMemAllocHost_v2(void **p, size_t size) { return allocate((uintptr_t *)p, size, false); }
CUresult cuMemFreeHost(void *p) { return release((uintptr_t)p, false); }
ALIAS(cuMemAlloc, cuMemAlloc_v2);
ALIAS(cuMemFree, cuMemFree_v2);
ALIAS(cuMemAllocHost, cuMemAllocHost_v2);

CUresult cuMemAllocPitch_v2(CUdeviceptr *p, size_t *pitch, size_t width, size_t height, unsigned element)
{
    if (element != 4 && element != 8 && element != 16)
        return CUDA_ERROR_INVALID_VALUE;
    *pitch = round_up(width, ALIGNMENT);
    if (width > DEVICE_BYTES || height > DEVICE_BYTES / ALIGNMENT)
        return CUDA_ERROR_OUT_OF_MEMORY;
    return allocate(p, *pitch * height, true);
}
ALIAS(cuMemAllocPitch, cuMemAllocPitch_v2);

struct end { /* one end of a copy */
    size_t x, y;
    int type;
    const void *host;
    CUdeviceptr device;
    void *array;
    size_t pitch;
};
typedef struct {
    struct end src, dst;
    size_t width, height;
} CUDA_MEMCPY2D; /* laid out as the driver's */

/* Tells where the copied rectangle starts and in which memory. A pointer of
 * the wrong kind, as far as it is known, and a rectangle that leaves its allocation are errors, where
 * a GPU may let some of them pass: a test wants to hear of them. */
static CUresult resolve(const struct end *e, size_t width, size_t height, char **first, bool *on_device)
{
    uintptr_t base = e->type == MEMORY_HOST ? (uintptr_t)e->host : e->device;
    struct allocation *a = find_allocation(base);
    /* In the tests libtorch's GPU is the CPU, too: what it has allocated is not known here. */
    *on_device = a ? a->on_device : e->type == MEMORY_DEVICE;
    *first = (char *)base + e->y * e->pitch + e->x;
    if (e->type == MEMORY_ARRAY)
        return CUDA_ERROR_NOT_SUPPORTED;
    bool bad = !base || (height > 1 && e->pitch < e->x + width);
    bad |= e->type != MEMORY_UNIFIED && *on_device != (e->type == MEMORY_DEVICE);
    bad |= a && *first + (height - 1) * e->pitch + width > a->start + a->size;
    return bad ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* Copies that streams have been asked for, in order. */
static struct pending {
    CUstream stream;
    CUDA_MEMCPY2D copy;
} pending[256];
static int pending_count;

/* Whether it can be done; does it where it is time. */
static CUresult copy_2d(const CUDA_MEMCPY2D *c, bool now)
{
    char *from, *to;
    bool from_device, to_device;
    TRY(check_context());
    if (lost)
        return CUDA_ERROR_LAUNCH_FAILED;
    if (c->width == 0 || c->height == 0)
        return CUDA_SUCCESS;
    TRY(resolve(&c->src, c->width, c->height, &from, &from_device));
    TRY(resolve(&c->dst, c->width, c->height, &to, &to_device));
    if (!now)
        return CUDA_SUCCESS;
    for (size_t row = 0; row < c->height; row++)
        memmove(to + row * c->dst.pitch, from + row * c->src.pitch, c->width);
    copies[from_device][to_device]++;
    return CUDA_SUCCESS;
}

/* Does what a stream has been asked for, or with the default one, null, what
 * all have. */
static CUresult finish(CUstream stream)
{
    CUresult result = CUDA_SUCCESS;
    int left = 0;
    for (int i = 0; i < pending_count; i++)
        if (stream && pending[i].stream != stream)
            pending[left++] = pending[i];
        else if (!result)
            result = copy_2d(&pending[i].copy, true);
    pending_count = left;
    return result;
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *c)
{
    LOCKED; /* to the end, so that nothing is freed underneath */
    TRY(finish(NULL));
    return copy_2d(c, true);
}
ALIAS(cuMemcpy2D, cuMemcpy2D_v2);

/* A pointer that is not CUDA's gets zeros, and no device (-2). */
static CUresult attribute(void *out, int which, CUdeviceptr p, const struct allocation *a)
{
    switch (which) {
    case 1: *(CUcontext *)out = a ? a->context : NULL; break;
    case 2: *(unsigned *)out = !a ? 0 : a->on_device ? MEMORY_DEVICE : MEMORY_HOST; break;
    case 3: *(CUdeviceptr *)out = a ? p : 0; break;                 /* as the device sees it */
    case 4: *(CUdeviceptr *)out = a && !a->on_device ? p : 0; break; /* and as the host does */
    case 8: *(unsigned *)out = 0; break;                            /* managed */
    case 9: *(int *)out = a ? 0 : -2; break;                        /* device */
    case 11: *(CUdeviceptr *)out = a ? (CUdeviceptr)a->start : 0; break;
    case 12: *(size_t *)out = a ? a->size : 0; break;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *out, int which, CUdeviceptr p)
{
    LOCKED;
    struct allocation *a = find_allocation(p);
    if (!a || (which == 4 && a->on_device))
        return CUDA_ERROR_INVALID_VALUE;
    return attribute(out, which, p, a);
}

/* Unlike the call for one attribute, this one takes any pointer. */
CUresult cuPointerGetAttributes(unsigned n, int *which, void **out, CUdeviceptr p)
{
    LOCKED;
    CUresult r = CUDA_SUCCESS;
    for (unsigned i = 0; i < n && !r; i++)
        r = attribute(out[i], which[i], p, find_allocation(p));
    return r;
}

/* ---- streams and events ---- */

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    (void)flags;
    TRY(check_context());
    return create(stream, STREAM);
}

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    (void)flags;
    TRY(check_context());
    return create(event, EVENT);
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    TRY(check(stream, STREAM));
    return check(event, EVENT);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
    (void)flags;
    return cuEventRecord(event, stream);
}

CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *c, CUstream stream)
{
    LOCKED;
    TRY(check(stream, STREAM));
    TRY(copy_2d(c, false));
    if (pending_count == sizeof pending / sizeof *pending)
        TRY(finish(NULL));
    pending[pending_count++] = (struct pending){stream, *c};
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream) { return destroy(stream, STREAM); }
CUresult cuStreamSynchronize(CUstream stream)
{
    LOCKED;
    TRY(check(stream, STREAM));
    return lost ? CUDA_ERROR_LAUNCH_FAILED : finish(stream);
}
CUresult cuEventDestroy_v2(CUevent event) { return destroy(event, EVENT); }
CUresult cuEventSynchronize(CUevent event) { return check(event, EVENT); }
ALIAS(cuMemcpy2DAsync, cuMemcpy2DAsync_v2);
ALIAS(cuStreamDestroy, cuStreamDestroy_v2);
ALIAS(cuStreamQuery, cuStreamSynchronize);
ALIAS(cuEventDestroy, cuEventDestroy_v2);
ALIAS(cuEventQuery, cuEventSynchronize);

/* ---- asked for by a loader, never done ---- */

#define STUB(name) CUresult name(void) { return CUDA_ERROR_NOT_SUPPORTED; }
STUB(cuCtxDisablePeerAccess)
STUB(cuModuleLoadData) STUB(cuModuleUnload) STUB(cuModuleGetFunction) STUB(cuLaunchKernel)
STUB(cuTexObjectCreate) STUB(cuTexObjectDestroy)
STUB(cuGraphicsMapResources) STUB(cuGraphicsUnmapResources) STUB(cuGraphicsUnregisterResource)
STUB(cuGraphicsResourceSetMapFlags) STUB(cuGraphicsResourceSetMapFlags_v2)
STUB(cuGraphicsResourceGetMappedPointer) STUB(cuGraphicsResourceGetMappedPointer_v2)
STUB(cuGraphicsSubResourceGetMappedArray)
STUB(cuGraphicsGLRegisterImage) STUB(cuGraphicsGLRegisterBuffer)
STUB(cuGLGetDevices) STUB(cuGLGetDevices_v2)

/* What the plugin wants of libnvcuvid.so.1. A failing cuvidGetDecoderCaps
 * keeps it from registering any decoder. */
STUB(cuvidCtxLockCreate) STUB(cuvidCtxLockDestroy) STUB(cuvidCtxLock) STUB(cuvidCtxUnlock)
STUB(cuvidCreateDecoder) STUB(cuvidDestroyDecoder) STUB(cuvidDecodePicture)
STUB(cuvidCreateVideoParser) STUB(cuvidParseVideoData) STUB(cuvidDestroyVideoParser)
STUB(cuvidMapVideoFrame64) STUB(cuvidUnmapVideoFrame64) STUB(cuvidGetDecoderCaps)
