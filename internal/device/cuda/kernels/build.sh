#!/bin/sh
# Rebuilds the images of the kernels, and notes which sources they are of: kernels_test.go holds sources.sha256 against the sources. Needs the CUDA compiler of exactly
# these packages, no GPU:
#   pip install nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
# CUDA_HOME is the folder that holds bin/nvcc: VENV/lib/python3.*/site-packages/nvidia/cu13. With -check the images are built and thrown away: the sources compile.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${CUDA_HOME:?expected the folder that holds bin/nvcc}"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$here"
LC_ALL=C
export LC_ALL
cat ./*.cu ./*.cuh | sha256sum | cut -c1-64 >"$tmp"/sources.sha256
"$CUDA_HOME"/bin/nvcc -O3 -std=c++17 -ptx -arch=compute_80 twilight.cu -o "$tmp"/twilight_compute80.ptx &
"$CUDA_HOME"/bin/nvcc -O3 -std=c++17 -ptx -arch=compute_90a twilight.cu -o "$tmp"/hopper.ptx
"$CUDA_HOME"/bin/ptxas -O3 -arch=sm_90a "$tmp"/hopper.ptx -o "$tmp"/twilight_sm90a.cubin
wait $!
if [ "${1-}" = -check ]; then
	exit
fi
for image in twilight_compute80.ptx twilight_sm90a.cubin; do
	gzip -9nc "$tmp/$image" >"$image".gz
done
cp "$tmp"/sources.sha256 .
