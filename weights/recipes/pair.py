"""Two processes of one thread each instead of one process of two threads: on a processor that is shared with other work, threads that
meet after every operation wait for one another most of the time; processes that meet once a step do not."""
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _enter(rank, count, meeting, work, args):
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    work(rank, count, args)
    dist.barrier()
    dist.destroy_process_group()


def run(work, args, count):
    meeting = os.path.join(tempfile.mkdtemp(), "meeting")
    mp.spawn(_enter, (count, meeting, work, args), nprocs=count)


def mean_gradients(parameters, count):
    """Replaces every gradient by its mean over the processes; one message for all of them."""
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= count
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
        p.grad.copy_(part.view_as(p))


def share(parameters, owners):
    """Every parameter is sent from the process that stepped it (owners: a process for each) to the others."""
    for rank in sorted(set(owners)):
        mine = [p for p, o in zip(parameters, owners) if o == rank]
        flat = torch.cat([p.detach().flatten() for p in mine])
        dist.broadcast(flat, rank)
        if dist.get_rank() != rank:
            with torch.no_grad():
                for p, part in zip(mine, flat.split([p.numel() for p in mine])):
                    p.copy_(part.view_as(p))


def agreed(flag):
    """What process 0 says."""
    word = torch.tensor([int(flag)])
    dist.broadcast(word, 0)
    return bool(word.item())


def agreed_number(value):
    word = torch.tensor([float(value)], dtype=torch.float64)
    dist.broadcast(word, 0)
    return word.item()
