package driver

import (
	"fmt"
	"runtime"
	"unsafe"
)

// function indexes the driver's functions that are used.
type function int

const (
	fInit function = iota
	fErrorName
	fErrorString
	fDriverVersion
	fDeviceCount
	fDeviceGet
	fDeviceName
	fDeviceAttribute
	fPrimaryRetain
	fPrimaryRelease
	fCtxSet
	fCtxSync
	fModuleLoad
	fModuleUnload
	fModuleFunction
	fFuncSetAttribute
	fFuncGetAttribute
	fOccupancy
	fClusters
	fMemInfo
	fMemAlloc
	fMemFree
	fMemHostAlloc
	fMemFreeHost
	fHostRegister
	fHostUnregister
	fCopyToDevice
	fCopyToHost
	fCopyToDeviceAsync
	fCopyToHostAsync
	fCopyAsync
	fSetAsync
	fStreamCreate
	fStreamDestroy
	fStreamSync
	fStreamQuery
	fBeginCapture
	fEndCapture
	fGraphInstantiate
	fGraphLaunch
	fGraphExecDestroy
	fGraphDestroy
	fEventCreate
	fEventDestroy
	fEventRecord
	fEventSync
	fEventElapsed
	fLaunch
	fTensorMap
	functions
)

var symbols = [functions]string{
	"cuInit", "cuGetErrorName", "cuGetErrorString", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute",
	"cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2", "cuCtxSetCurrent", "cuCtxSynchronize", "cuModuleLoadData", "cuModuleUnload", "cuModuleGetFunction",
	"cuFuncSetAttribute", "cuFuncGetAttribute", "cuOccupancyMaxActiveBlocksPerMultiprocessor", "cuOccupancyMaxActiveClusters", "cuMemGetInfo_v2", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostAlloc",
	"cuMemFreeHost", "cuMemHostRegister_v2", "cuMemHostUnregister", "cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemsetD8Async",
	"cuStreamCreate", "cuStreamDestroy_v2", "cuStreamSynchronize", "cuStreamQuery", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags",
	"cuGraphLaunch", "cuGraphExecDestroy", "cuGraphDestroy", "cuEventCreate", "cuEventDestroy_v2", "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime",
	"cuLaunchKernelEx", "cuTensorMapEncodeTiled",
}

type library struct {
	fn [functions]uintptr
	// out is where calls store their results. The stack may move during a call and the heap does not, so results never go to locals. Calls come one after another.
	out [2]uint64
	// args are those of the call in flight, here so that a call allocates nothing.
	args [12]uintptr
}

func load(path string) (*library, error) {
	if path == "" {
		path = defaultLibrary
	}
	h, err := open(path)
	if err != nil {
		return nil, err
	}
	l := &library{}
	for i, name := range symbols {
		if l.fn[i], err = symbol(h, name); err != nil {
			return nil, fmt.Errorf("cuda: %s lacks %s: %w: it is older than this program needs (%v)", path, name, ErrUnavailable, err)
		}
	}
	return l, nil
}

// Error is a failed call of the driver.
type Error struct {
	Call string // the driver's function
	Code int
	Name string // CUDA's name of the code, as CUDA_ERROR_OUT_OF_MEMORY
	Text string // CUDA's description
	What string // what was being done, to what
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("cuda: %s: %s: %s (%d): %s", e.What, e.Call, e.Name, e.Code, e.Text)
}

// do calls f; a failure is described by what. Memory whose addresses are among the arguments is kept in its place by the caller.
func (l *library) do(f function, what string, args ...uintptr) error {
	return l.ended(f, call(l.fn[f], l.args[:copy(l.args[:], args)]...), what)
}

func (l *library) ended(f function, code int32, what string) error {
	if code == 0 {
		return nil
	}
	return &Error{Call: symbols[f], Code: int(code), What: what, Name: l.describe(fErrorName, code), Text: l.describe(fErrorString, code)}
}

// describe asks the driver for one of its constant strings about a code.
func (l *library) describe(f function, code int32) string {
	l.out[0] = 0
	if call(l.fn[f], uintptr(code), uintptr(unsafe.Pointer(&l.out))) != 0 {
		return "unknown"
	}
	p := *(*unsafe.Pointer)(unsafe.Pointer(&l.out))
	if p == nil {
		return "unknown"
	}
	n := 0
	for n < 1<<10 && *(*byte)(unsafe.Add(p, n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(p), n))
}

// value calls f, which stores a result of at most 8 bytes through its first argument.
func value[T any](l *library, f function, what string, args ...uintptr) (T, error) {
	l.out[0] = 0
	l.args[0] = uintptr(unsafe.Pointer(&l.out))
	n := 1 + copy(l.args[1:], args)
	err := l.ended(f, call(l.fn[f], l.args[:n]...), what)
	return *(*T)(unsafe.Pointer(&l.out)), err
}

// with calls f with the address of b's bytes, which stay where they are meanwhile.
func with(b []byte, f func(addr uintptr) error) error {
	var p runtime.Pinner
	p.Pin(&b[0])
	defer p.Unpin()
	return f(uintptr(unsafe.Pointer(&b[0])))
}
