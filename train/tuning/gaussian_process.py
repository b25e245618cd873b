"""A Gaussian process over the unit cube, and what to try next by it.

Outcomes have mean 0 and standard deviation 1, and lower ones are better. The
formulas are of Rasmussen and Williams 2006, "Gaussian Processes for Machine
Learning".
"""

import dataclasses

import numpy as np
from scipy import optimize, special
from scipy.linalg import lapack

_ROOT_5 = 5**0.5
_JITTER = 1e-8
# Bounds of length scales, signal variance and noise variance.
_LENGTHS, _SIGNALS, _NOISES = (0.05, 20.0), (0.05, 20.0), (1e-6, 1.0)
# Log-normal priors: median and standard deviation of the logarithm. The median
# length scale grows with the root of the dimension, as distances do (Hvarfner
# et al. 2024, "Vanilla Bayesian optimization performs great in high
# dimensions"), but is shorter than theirs: with longer ones, some searches of
# 40 trials stayed at the edge of the cube that they first came to.
_LENGTH_MEDIAN, _LENGTH_SPREAD = 0.2, 1.0
_SIGNAL_MEDIAN, _SIGNAL_SPREAD = 1.0, 1.0
# Runs differ little by their seeds.
_NOISE_MEDIAN, _NOISE_SPREAD = 3e-3, 1.5
# A second start: outcomes that change fast, or are mostly noise.
_ROUGH = (0.3, 0.1)
_STEPS = 60
_SMALLEST_VARIANCE = 1e-10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scales:
  """What a process is made of.

  Attributes:
    lengths_D: distances over which outcomes change, along each dimension.
    signal: variance of the process.
    noise: variance of an outcome beside it.
    categorical_D: dimensions in which places are the same or not, and never
      near to each other.
  """

  lengths_D: np.ndarray
  signal: float
  noise: float
  categorical_D: np.ndarray

  def covariance(self, x_MD: np.ndarray, z_ND: np.ndarray) -> np.ndarray:
    """Of the process between places, without noise."""
    squares_MND = _squares(x_MD, z_ND, self.categorical_D)
    return self.signal * _matern(squares_MND / self.lengths_D**2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianProcess:
  """A process that has seen outcomes.

  Attributes:
    scales: of the process.
    x_ND: places in the unit cube.
    y_N: outcomes there.
    whitener_NN: inverse of the lower Cholesky factor of their covariance.
    weights_N: covariance, inverted, times outcomes.
  """

  scales: Scales
  x_ND: np.ndarray
  y_N: np.ndarray
  whitener_NN: np.ndarray
  weights_N: np.ndarray

  def predict(self, x_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the process, without noise, at places."""
    covariance_MN = self.scales.covariance(x_MD, self.x_ND)
    whitened_MN = covariance_MN @ self.whitener_NN.T
    variance_M = self.scales.signal - (whitened_MN**2).sum(axis=1)
    return (
      covariance_MN @ self.weights_N,
      np.sqrt(np.maximum(variance_M, _SMALLEST_VARIANCE)),
    )

  def believe(self, x_MD: np.ndarray) -> 'GaussianProcess':
    """The process if outcomes that are pending are what it expects of them.

    It is then sure of them, and looks elsewhere ("kriging believer" of
    Ginsbourger et al. 2010, "Kriging is well-suited to parallelize
    optimization").
    """
    expected_M, _ = self.predict(x_MD)
    return condition(
      self.scales,
      np.concatenate([self.x_ND, x_MD]),
      np.concatenate([self.y_N, expected_M]),
    )


def condition(
  scales: Scales, x_ND: np.ndarray, y_N: np.ndarray
) -> GaussianProcess:
  """A process of given scales that has seen outcomes."""
  covariance_NN = scales.covariance(x_ND, x_ND)
  covariance_NN += (scales.noise + _JITTER) * np.eye(len(x_ND))
  whitener_NN, _ = _whitener(covariance_NN)
  return GaussianProcess(
    scales=scales,
    x_ND=x_ND,
    y_N=y_N,
    whitener_NN=whitener_NN,
    weights_N=whitener_NN.T @ (whitener_NN @ y_N),
  )


def fit(
  x_ND: np.ndarray, y_N: np.ndarray, categorical_D: np.ndarray
) -> GaussianProcess:
  """A process with the likeliest length scales and variances (MAP).

  The search for them starts from fixed ones, so that equal outcomes make an
  equal process.

  Args:
    x_ND: places in the unit cube.
    y_N: outcomes there, standardised.
    categorical_D: dimensions without an order.
  """
  dimensions = x_ND.shape[1]
  squares_NND = _squares(x_ND, x_ND, categorical_D)
  found = [
    # Not L-BFGS-B, which starts threads to solve triangles of ten rows: they
    # take longer than all the rest.
    optimize.minimize(
      negative_log_posterior,
      np.log([length] * dimensions + [_SIGNAL_MEDIAN, noise]),
      (squares_NND, y_N),
      jac=True,
      method='BFGS',
      options={'maxiter': _STEPS},
    )
    for length, noise in ((_length_median(dimensions), _NOISE_MEDIAN), _ROUGH)
  ]
  best = min(found, key=lambda result: result.fun)
  scales = np.exp(np.clip(best.x, *_bounds(dimensions)))
  return condition(
    Scales(
      lengths_D=scales[:-2],
      signal=float(scales[-2]),
      noise=float(scales[-1]),
      categorical_D=categorical_D,
    ),
    x_ND,
    y_N,
  )


def negative_log_posterior(
  log_scales: np.ndarray, squares_NND: np.ndarray, y_N: np.ndarray
) -> tuple[float, np.ndarray]:
  """Of length scales and variances, up to a constant, with its gradient.

  Beyond their bounds they are cut to them, and only the priors go on.

  Args:
    log_scales: logarithms of the length scales, the signal's variance and the
      noise's.
    squares_NND: squared distances along each dimension.
    y_N: outcomes.
  """
  dimensions = squares_NND.shape[-1]
  cut = np.clip(log_scales, *_bounds(dimensions))
  lengths_D, (signal, noise) = np.exp(cut[:-2]), np.exp(cut[-2:])
  scaled_NND = squares_NND / lengths_D**2
  radius_NN = np.sqrt(scaled_NND.sum(axis=-1))
  decay_NN = np.exp(-_ROOT_5 * radius_NN)
  kernel_NN = signal * _matern(scaled_NND)
  count = len(y_N)
  covariance_NN = kernel_NN + (noise + _JITTER) * np.eye(count)
  whitener_NN, half_log_determinant = _whitener(covariance_NN)
  weights_N = whitener_NN.T @ (whitener_NN @ y_N)
  loss = 0.5 * y_N @ weights_N + half_log_determinant
  # d loss = -1/2 tr((w w^T - K^-1) dK), Rasmussen and Williams, eq. 5.9.
  pull_NN = np.outer(weights_N, weights_N) - whitener_NN.T @ whitener_NN
  slope_NN = signal * (5 / 3) * (1 + _ROOT_5 * radius_NN) * decay_NN
  gradient = -0.5 * np.array(
    [
      *np.einsum('ij,ijd->d', pull_NN * slope_NN, scaled_NND),
      (pull_NN * kernel_NN).sum(),
      np.trace(pull_NN) * noise,
    ]
  )
  medians = [_length_median(dimensions)] * dimensions
  medians += [_SIGNAL_MEDIAN, _NOISE_MEDIAN]
  spreads = np.array(
    [_LENGTH_SPREAD] * dimensions + [_SIGNAL_SPREAD, _NOISE_SPREAD]
  )
  away = (log_scales - np.log(medians)) / spreads
  gradient = np.where(cut == log_scales, gradient, 0.0) + away / spreads
  return float(loss + 0.5 * (away**2).sum()), gradient


def log_expected_improvement(
  mean_M: np.ndarray, deviation_M: np.ndarray, best: float
) -> np.ndarray:
  """Logarithm of how far below the best an outcome is expected to fall.

  The improvement itself is 0 in floating point far from the best outcomes,
  and tells nothing there (Ament et al. 2023, "Unexpected improvements to
  expected improvement").

  Args:
    mean_M: of the outcomes.
    deviation_M: standard deviation.
    best: lowest outcome so far.
  """
  z_M = (best - mean_M) / deviation_M
  near_M = np.maximum(z_M, -1.0)
  density_M = np.exp(-0.5 * near_M**2) / np.sqrt(2 * np.pi)
  log_near_M = np.log(density_M + near_M * special.ndtr(near_M))
  far_M = np.minimum(z_M, -1.0)
  # Mills' ratio times |z|: it tends to 1, and 1 minus it to 1 / z^2.
  ratio_M = -far_M * np.sqrt(np.pi / 2) * special.erfcx(-far_M / np.sqrt(2))
  rest_M = np.where(far_M < -1e4, far_M**-2, 1 - ratio_M)
  log_far_M = -0.5 * far_M**2 - 0.5 * np.log(2 * np.pi) + np.log(rest_M)
  return np.where(z_M > -1, log_near_M, log_far_M) + np.log(deviation_M)


def compressed(y_N: np.ndarray) -> np.ndarray:
  """Outcomes above the median on a logarithmic scale; their order stays.

  How bad a diverged run is would otherwise be most of what the process sees,
  and a loss rises much faster on one side of the best point than on the other.
  Of plain cuts (winsorising) none did as well in 40 trials.

  Args:
    y_N: outcomes, all finite.

  Returns:
    0 for the best, 1 for the median one, 1 + log 2 for one twice as bad.
  """
  above_N = y_N - y_N.min()
  unit = np.median(above_N) or above_N.max() or 1.0
  ratio_N = above_N / unit
  return np.where(ratio_N < 1, ratio_N, 1 + np.log(np.maximum(ratio_N, 1)))


def standardised(y_N: np.ndarray) -> np.ndarray:
  """Outcomes with mean 0 and, unless they are all equal, deviation 1."""
  deviation = y_N.std()
  return (y_N - y_N.mean()) / (deviation if deviation > 0 else 1.0)


def _whitener(covariance_NN: np.ndarray) -> tuple[np.ndarray, float]:
  """Inverse of the lower Cholesky factor, and half the log determinant.

  With many right-hand sides a triangular solver starts threads for a matrix of
  40 rows, and they take ten times as long as the work.
  """
  factor_NN = np.linalg.cholesky(covariance_NN)
  whitener_NN, _ = lapack.dtrtri(factor_NN, lower=1)
  return whitener_NN, float(np.log(np.diag(factor_NN)).sum())


def _bounds(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
  """Lowest and highest logarithms of the scales."""
  low, high = np.log([_LENGTHS] * dimensions + [_SIGNALS, _NOISES]).T
  return low, high


def _length_median(dimensions: int) -> float:
  return _LENGTH_MEDIAN * dimensions**0.5


def _squares(
  x_MD: np.ndarray, z_ND: np.ndarray, categorical_D: np.ndarray
) -> np.ndarray:
  """Squared distances along each dimension; 0 or 1 where there is no order."""
  apart_MND = x_MD[:, None, :] - z_ND[None]
  return np.where(categorical_D, np.abs(apart_MND) > 1e-9, apart_MND**2)


def _matern(scaled_MND: np.ndarray) -> np.ndarray:
  """Matern kernel of order 5/2, of squared scaled distances."""
  square_MN = scaled_MND.sum(axis=-1)
  far_MN = _ROOT_5 * np.sqrt(square_MN)
  return (1 + far_MN + 5 / 3 * square_MN) * np.exp(-far_MN)
