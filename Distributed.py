"""Training in several processes that torchrun has started. All functions also work in a single process."""
import datetime
import os

import torch
import torch.distributed as dist
from torch import nn


def process_rank():
    """Return the rank of this process and the number of processes: (0, 1) without torchrun.

    The first call joins the processes.
    """
    if not dist.is_torchelastic_launched():
        return 0, 1
    if not dist.is_initialized():
        own_gpu = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
        if own_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # the timeout is long because the others wait while the first process builds the data set
        dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo", timeout=datetime.timedelta(days=1))
    return dist.get_rank(), dist.get_world_size()


def first_process_first(work):
    """Call `work` in the first process and then in the others, and return its result.

    The others find the files that the first one has written.
    """
    rank, number = process_rank()
    if rank == 0:
        result = work()
    if number > 1:
        dist.barrier()
    return result if rank == 0 else work()


def sum_over_processes(tensor):
    """Return the sum of a tensor over all processes. The tensor is changed."""
    if process_rank()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(parameters):
    """Add up the gradients of the parameters over all processes, in place."""
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
    """Batch normalisation with the statistics of the batches of all processes.

    The result does not depend on the number of processes. torch's own SyncBatchNorm needs CUDA.
    """

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


def share_batch_norm(layer):
    """Return a `SharedBatchNorm2d` with the parameters and statistics of a BatchNorm2d. Other layers are returned."""
    if not isinstance(layer, nn.BatchNorm2d):
        return layer
    shared = SharedBatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    shared.weight, shared.bias = layer.weight, layer.bias
    shared.running_mean, shared.running_var = layer.running_mean, layer.running_var
    shared.num_batches_tracked = layer.num_batches_tracked
    return shared.train(layer.training)
