"""The processes of a training: one or, with torchrun, several. Ctrl-C waits until a step is done, memory is reused."""
import contextlib
import ctypes
import datetime
import os
import signal

import torch
import torch.distributed as dist
from torch import nn


def process_rank():
    """Return the rank of this process and the number of processes, (0, 1) without torchrun. A first call joins them."""
    if not dist.is_torchelastic_launched():
        return 0, 1
    if not dist.is_initialized():
        own_gpu = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
        if own_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # the timeout is long because the others wait while the first process builds the data set
        dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo", timeout=datetime.timedelta(days=1))
    return dist.get_rank(), dist.get_world_size()


def is_first():
    """Return whether this is the first process, which alone prints and writes files."""
    return process_rank()[0] == 0


def first_process_first(work):
    """Call `work` in the first process and then in the others, which find its files, and return its result."""
    result = work() if is_first() else None
    wait_for_all()
    return result if is_first() else work()


def wait_for_all():
    """Wait until every process has come here."""
    if process_rank()[1] > 1:
        dist.barrier()


def sum_over_processes(tensor):
    """Return the sum of a tensor over all processes. The tensor is changed."""
    if process_rank()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(parameters):
    """Add up the gradients of the parameters over all processes, in place, if there are several."""
    if process_rank()[1] == 1:
        return
    gradients = [(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
                 for parameter in parameters]
    flat = sum_over_processes(torch.cat(gradients))
    for parameter, part in zip(parameters, flat.split([parameter.numel() for parameter in parameters])):
        parameter.grad = part.view(parameter.shape)


class SharedSum(torch.autograd.Function):
    """Sum over processes with a gradient, as the tensor of each process has an effect on the losses of all."""

    @staticmethod
    def forward(context, tensor):
        return sum_over_processes(tensor.clone())

    @staticmethod
    def backward(context, gradient):
        return sum_over_processes(gradient.clone())


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the batches of all processes. torch's SyncBatchNorm needs CUDA."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        axes, x = (0, 2, 3), x.float()
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = SharedSum.apply(torch.cat([x.sum(axes), (x ** 2).sum(axes), count]))
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        variance = (square - mean ** 2).clamp(min=0)  # rounding may make it negative
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * sums[-1] / (sums[-1] - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


def share_batch_norms(network):
    """Turn every BatchNorm2d of a network into a `SharedBatchNorm2d`, in place, if there are several processes."""
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d and process_rank()[1] > 1:
            layer.__class__ = SharedBatchNorm2d  # with the same parameters and statistics


def reuse_memory():
    """Have Linux's malloc keep freed blocks of any size: to get new ones takes a tenth of a training step."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # macOS has no such function, Windows no such call
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, 2 ** 31 - 1)


@contextlib.contextmanager
def deferred_interrupt():
    """Yield a list that Ctrl-C and SIGTERM fill instead of breaking off, so that a step is never left half-done."""
    seen = []
    previous = {number: signal.signal(number, lambda number, frame: seen.append(number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
