// A stand-in for NVIDIA's driver library: enough of it, on host memory, to run the driver layer on a machine without a GPU. Work runs when it is queued, except
// between the beginning and the end of a capture. Its one kernel, "add", adds params.x to each of params.n floats; or, with EMULATED, it has the kernels of emulator.cc.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int R;
typedef struct { float *at; float x; int n; } Params;
typedef struct { unsigned grid[3], block[3], shared; void *stream; void *attrs; unsigned count; } Config;
typedef struct { unsigned id, pad; unsigned value[16]; } Attr;
typedef struct { void *kernel; unsigned grid[3], threads, cluster; char params[1024]; } Node; // without a kernel it copies or fills
typedef struct { void *at; const void *from; size_t bytes; unsigned char with; } Fill; // from: null, or what is copied
typedef struct { int nodes, room; Node *node; } Graph;

#ifdef EMULATED
extern const unsigned emulated_params;
void *emulated_kernel(const char *name);
void emulate(void *kernel, const unsigned *grid, unsigned threads, unsigned cluster, const void *params);
#else
static unsigned emulated_params = sizeof(Params);
static void *emulated_kernel(const char *name) { return strcmp(name, "add") ? 0 : (void *)3; }
static void emulate(void *kernel, const unsigned *grid, unsigned threads, unsigned cluster, const void *params) {
	const Params *p = params;
	for (int i = 0; i < p->n; i++) p->at[i] += p->x;
}
#endif

static int capturing, clock_ms;
static Graph *open_graph;
static __thread int current;

R cuInit(unsigned f) { return 0; }
R cuGetErrorName(R e, const char **s) { *s = e == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : e == 100 ? "CUDA_ERROR_NO_DEVICE" : e == 500 ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_INVALID_VALUE"; return e == 999; }
R cuGetErrorString(R e, const char **s) { *s = e == 2 ? "out of memory" : "mock failure"; return 0; }
R cuDriverGetVersion(int *v) { *v = 13000; return 0; }
R cuDeviceGetCount(int *n) { *n = 1; return 0; }
R cuDeviceGet(int *d, int i) { *d = i; return 0; }
R cuDeviceGetName(char *s, int n, int d) { strncpy(s, "Mock GPU", n); return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 9 : a == 76 ? 0 : a == 16 ? 132 : a == 97 ? 227 << 10 : 50 << 20; return 0; }
R cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)1; return 0; }
R cuDevicePrimaryCtxRelease_v2(int d) { return 0; }
R cuCtxSetCurrent(void *c) { current = 1; return 0; }
R cuCtxSynchronize(void) { return current ? 0 : 201; }
#ifdef EMULATED
R cuModuleLoadData(void **m, const char *image) { *m = (void *)2; return 0; }
#else
R cuModuleLoadData(void **m, const char *image) { if (strncmp(image, "mock", 4)) return 200; *m = (void *)2; return 0; }
#endif
R cuModuleUnload(void *m) { return 0; }
R cuModuleGetFunction(void **f, void *m, const char *name) { return (*f = emulated_kernel(name)) ? 0 : 500; }
static int attr[32];
R cuFuncSetAttribute(void *f, int a, int v) { if (a < 0 || a >= 32) return 1; attr[a] = v; return 0; }
R cuFuncGetAttribute(int *v, int a, void *f) { if (a < 0 || a >= 32) return 1; *v = attr[a]; return 0; }
R cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, void *f, int threads, size_t shared) {
#ifdef EMULATED
	*n = 1; // blocks that only look whether there is work cost as much as others
#else
	*n = 2048 / threads;
#endif
	return 0;
}
static size_t taken;
#ifdef EMULATED
R cuMemGetInfo_v2(size_t *f, size_t *t) { *f = (1 << 30) - __atomic_load_n(&taken, __ATOMIC_RELAXED), *t = 1u << 31; return 0; }
#else
R cuMemGetInfo_v2(size_t *f, size_t *t) { *f = 1 << 20; *t = 1 << 21; return 0; }
#endif
// Memory ends where none is mapped, so that who reads or writes far beyond it is killed at once; its size stands in a page before it.
R cuMemAlloc_v2(void **p, size_t n) {
	if (!current) return 201;
	if (n > 1u << 30) return 2;
	size_t room = (n + 4095) / 4096 * 4096;
	char *at = mmap(0, room + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) return 2;
	mprotect(at + 4096 + room, 4096, PROT_NONE);
	*(size_t *)at = room;
	__atomic_add_fetch(&taken, room, __ATOMIC_RELAXED);
	memset(at + 4096, 0xcd, room);
	*p = at + 4096 + (room - n) / 256 * 256;
	return 0;
}
// The map of a matrix, as kernels/hopper.cuh's stand-in reads it.
typedef struct { void *base; unsigned long long columns, rows, row_bytes; unsigned box_columns, box_rows; } Map;
R cuTensorMapEncodeTiled(Map *m, int type, unsigned rank, void *base, const unsigned long long *dims, const unsigned long long *strides, const unsigned *box, const unsigned *steps,
                         int interleave, int swizzle, int promotion, int fill) {
	if ((size_t)m % 64 || (size_t)base % 16 || type != 6 || rank != 2 || dims[0] < 1 || dims[1] < 1 || strides[0] % 16 || box[0] * 2 > 128 || box[1] < 1 || box[1] > 256 || steps[0] != 1 || steps[1] != 1 ||
	    interleave || swizzle != 3 || fill)
		return 1;
	*m = (Map){base, dims[0], dims[1], strides[0], box[0], box[1]};
	return 0;
}
R cuMemFree_v2(void *p) {
	char *at = (char *)((size_t)p / 4096 * 4096) - 4096;
	__atomic_sub_fetch(&taken, *(size_t *)at, __ATOMIC_RELAXED);
	munmap(at, *(size_t *)at + 8192);
	return 0;
}
R cuMemHostRegister_v2(void *p, size_t n, unsigned f) { return (size_t)p % 4096 || f != 3; }
R cuMemHostUnregister(void *p) { return 0; }
R cuMemHostAlloc(void **p, size_t n, unsigned f) { *p = malloc(n); return 0; }
R cuMemFreeHost(void *p) { free(p); return 0; }
R cuMemcpyHtoD_v2(void *d, const void *s, size_t n) { memcpy(d, s, n); return 0; }
R cuMemcpyDtoH_v2(void *d, const void *s, size_t n) { memcpy(d, s, n); return 0; }
static R queue(const Node *n);
static R copy(void *d, const void *s, size_t n) {
	Node x = {0};
	*(Fill *)x.params = (Fill){d, s, n, 0};
	return queue(&x);
}
R cuMemcpyHtoDAsync_v2(void *d, const void *s, size_t n, void *st) { return copy(d, s, n); }
R cuMemcpyDtoHAsync_v2(void *d, const void *s, size_t n, void *st) { return copy(d, s, n); }
R cuMemcpyDtoDAsync_v2(void *d, const void *s, size_t n, void *st) { return copy(d, s, n); }
R cuMemsetD8Async(void *d, unsigned char b, size_t n, void *st) {
	Node x = {0};
	*(Fill *)x.params = (Fill){d, 0, n, b};
	return queue(&x);
}
R cuStreamCreate(void **s, unsigned f) { *s = malloc(1); return 0; }
R cuStreamDestroy_v2(void *s) { free(s); return 0; }
R cuStreamSynchronize(void *s) { return 0; }
static int busy = 1;
R cuStreamQuery(void *s) { return busy-- > 0 ? 600 : 0; }
R cuStreamBeginCapture_v2(void *s, int mode) { capturing = 1; open_graph = calloc(1, sizeof(Graph)); return 0; }
R cuStreamEndCapture(void *s, Graph **g) { capturing = 0; *g = open_graph; return 0; }
R cuGraphInstantiateWithFlags(Graph **e, Graph *g, unsigned long long f) { 
	*e = malloc(sizeof(Graph));
	**e = *g;
	(*e)->node = malloc((g->nodes + 1) * sizeof(Node));
	memcpy((*e)->node, g->node, g->nodes * sizeof(Node));
	return 0;
}
static void go(const Node *n) {
	const Fill *f = (const Fill *)n->params;
	if (n->kernel) emulate(n->kernel, n->grid, n->threads, n->cluster, n->params);
	else if (f->from) memcpy(f->at, f->from, f->bytes);
	else memset(f->at, f->with, f->bytes);
}
static R queue(const Node *n) {
	if (!capturing) { go(n); return 0; }
	if (open_graph->nodes == open_graph->room) open_graph->node = realloc(open_graph->node, (open_graph->room = 2 * open_graph->room + 64) * sizeof(Node));
	open_graph->node[open_graph->nodes++] = *n;
	return 0;
}
R cuGraphLaunch(Graph *g, void *s) { for (int i = 0; i < g->nodes; i++) go(&g->node[i]); return 0; }
R cuGraphExecDestroy(Graph *g) { free(g->node), free(g); return 0; }
R cuGraphDestroy(Graph *g) { free(g->node), free(g); return 0; }
R cuEventCreate(int **e, unsigned f) { *e = calloc(1, sizeof(int)); return 0; }
R cuEventDestroy_v2(int *e) { free(e); return 0; }
R cuEventRecord(int *e, void *s) { *e = ++clock_ms; return 0; }
R cuEventSynchronize(int *e) { return 0; }
R cuEventElapsedTime(float *ms, int *a, int *b) { *ms = *b - *a; return 0; }
R cuOccupancyMaxActiveClusters(int *n, void *f, const Config *c) {
	Attr *a = c->attrs;
	*n = 132 / (c->count && a[0].id == 4 ? a[0].value[0] : 1);
	return 0;
}
R cuLaunchKernelEx(const Config *c, void *f, void **params, void **extra) {
	if (c->grid[0] == 0 || c->grid[1] == 0 || c->grid[2] == 0 || c->block[0] == 0) return 1;
	Attr *a = c->attrs;
	attr[20] = attr[21] = 0; // told through cuFuncGetAttribute
	for (unsigned i = 0; i < c->count; i++) {
		if (a[i].id == 4) attr[20] = a[i].value[0];
		else if (a[i].id == 6) attr[21] = a[i].value[0];
		else return 1;
	}
	Node n = {f, {c->grid[0], c->grid[1], c->grid[2]}, c->block[0], attr[20] ? attr[20] : 1};
	memcpy(n.params, params[0], emulated_params);
	return queue(&n);
}
