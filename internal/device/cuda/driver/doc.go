// Package driver is a thin layer over NVIDIA's driver library, loaded at run time: no toolkit, no cgo, and on a machine without the library a clear error.
//
// A CUDA context is current on an operating-system thread: Device.Do makes it so on the caller's while it runs whole steps there; a Context is only valid inside Do.
// Every error names the driver's function, CUDA's own name of the error, and what was being done.
package driver

import "errors"

// ErrUnavailable is in the error of Open where no NVIDIA driver can be used: none installed, none for this system, or a build with the tag nocuda.
var ErrUnavailable = errors.New("no NVIDIA driver")

// The numbers below are the driver's, from its public header.
const (
	attrMultiprocessors = 16
	attrL2Bytes         = 38
	attrMajor           = 75
	attrMinor           = 76
	attrSharedBytes     = 97

	errNotReady = 600

	launchClusterDimension = 4
	launchProgrammatic     = 6

	captureThreadLocal = 1
)

// FuncAttr is an attribute of a function that can be set.
type FuncAttr int

// The attributes in use.
const (
	FuncSharedBytes        FuncAttr = 1  // read only: bytes of shared memory that a thread block has besides the dynamic
	FuncRegisters          FuncAttr = 4  // read only: registers a thread
	FuncMaxDynamicShared   FuncAttr = 8  // bytes of dynamic shared memory that launches may ask for
	FuncNonPortableCluster FuncAttr = 14 // 1: clusters of more than 8 blocks are allowed
)
