# Makes the expected vectors beside it: pip install gguf==0.19.0 numpy, then python vectors.py.
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, quants

# Where each type keeps halves that scale the block; random bytes there would often be infinities or NaN.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.TQ1_0: [52], T.TQ2_0: [64], T.BF16: [],
    T.IQ1_M: [], T.MXFP4: [],
}
for t, halves in HALVES.items():
    rng = np.random.default_rng(int(t))
    elements, size = GGML_QUANT_SIZES[t]
    n = 512 // elements
    b = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in halves:
        h = rng.normal(0, 0.01, n).astype(np.float16)
        b[:, at:at + 2] = h.view(np.uint8).reshape(n, 2)
    if t == T.BF16:
        b = rng.normal(0, 1, n).astype(np.float32).view(np.uint8).reshape(n, 4)[:, 2:].copy()
    if t == T.IQ1_M:  # the half is spread over the top nibbles of four words
        h = rng.normal(0, 0.01, n).astype(np.float16).view(np.uint16)
        for k in range(4):
            b[:, 49 + 2 * k] = (b[:, 49 + 2 * k] & 15) | ((h >> (4 * k) & 15) << 4).astype(np.uint8)
    if t == T.MXFP4:
        b[:, 0] = np.arange(n) * 16 % 254  # all scales in turn, 2^-128 and 2^-127 too
        b[1, 0] = 1
    y = quants.dequantize(b.reshape(n, size) if elements > 1 else b.reshape(-1), t)
    with open(f"{t.name}.bin", "wb") as f:
        f.write(b.tobytes())
        f.write(y.astype("<f4").tobytes())

# What the package's encoders make of normal numbers, a block of zeros and a block of one value.
for t in (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0):
    x = np.random.default_rng(100 + int(t)).normal(0, 1, 512).astype(np.float32)
    x[32:64], x[64:96] = 0, 0.75
    with open(f"{t.name}.encoded", "wb") as f:
        f.write(x.astype("<f4").tobytes())
        f.write(quants.quantize(x, t).tobytes())
