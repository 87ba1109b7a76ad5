"""One network trained by several processes, as torchrun starts them, or by one, in the same words."""
import datetime
import os
import shlex

import torch
import torch.distributed as dist
from torch import nn


def processes():
    """Return (rank, number) of the processes that torchrun started, and join them at the first call; else (0, 1)."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        own_gpu = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
        if own_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # the others wait while the first alone builds the data set
        dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo", timeout=datetime.timedelta(days=1))
    return dist.get_rank(), dist.get_world_size()


def first_alone(work):
    """Call `work` in the first process, then in the others, which find done what it left; return its result."""
    rank, number = processes()
    if rank == 0:
        result = work()
    if number > 1:
        dist.barrier()
    return result if rank == 0 else work()


def summed(tensor):
    """The sum of a tensor over all processes."""
    if processes()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


class SharedSum(torch.autograd.Function):
    """`summed`, through which gradients flow: what a process adds to the sum acts on the losses of all."""

    @staticmethod
    def forward(context, tensor):
        return summed(tensor.clone())

    @staticmethod
    def backward(context, gradient):
        return summed(gradient.clone())


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' batches, so that how many there are does not matter.
    (torch's own SyncBatchNorm needs CUDA.)"""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        axes, x = (0, 2, 3), x.float()
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = SharedSum.apply(torch.cat([x.sum(axes), (x ** 2).sum(axes), count]))
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        variance = (square - mean ** 2).clamp(min=0)  # rounding may leave it below
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * sums[-1] / (sums[-1] - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


def finish(*command):
    """Print the command that comes after a training, in the first process. One of several processes ends at once: on
    the usual way out, now and then, the threads through which they speak abort it."""
    rank, number = processes()
    if rank == 0:
        print("next: python", shlex.join(map(str, command)), flush=True)
    if number > 1:
        os._exit(0)
