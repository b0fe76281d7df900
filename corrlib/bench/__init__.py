"""Benchmarks: our fast paths against other ways to compute the same, in one run.

Wall times drift with the machine; their ratios within one interleaved run do not. Every
formulation is checked to give the same result as it is timed.
"""

from corrlib.bench.affinity import bench_affinity
from corrlib.bench.metric import bench_metric
from corrlib.bench.propagate import bench_propagate
from corrlib.bench.train import bench_train
from corrlib.bench.train_joint import bench_train_joint

__all__ = [
    "bench_affinity",
    "bench_metric",
    "bench_propagate",
    "bench_train",
    "bench_train_joint",
]
