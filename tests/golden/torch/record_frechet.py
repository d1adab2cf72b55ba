"""The Frechet distance of two sets of fifty features, by NumPy and SciPy.

Prints the number that `crates/stable-diffusion/src/frechet.rs` holds.
"""

import numpy
import scipy
from scipy.linalg import sqrtm

t = numpy.arange(50.0)
a = numpy.stack([numpy.sin(t), 2 * numpy.cos(1.3 * t), numpy.sin(0.7 * t) + 0.1 * numpy.cos(t)], 1)
b = numpy.stack([numpy.cos(0.9 * t) + 0.3, numpy.sin(1.1 * t), 1.5 * numpy.cos(0.4 * t) - 0.2], 1)
a, b = (x.astype(numpy.float32).astype(numpy.float64) for x in (a, b))
between = a.mean(0) - b.mean(0)
s, r = numpy.cov(a.T), numpy.cov(b.T)
distance = between @ between + numpy.trace(s + r - 2 * sqrtm(s @ r).real)
print(repr(float(distance)), "numpy", numpy.__version__, "scipy", scipy.__version__)
